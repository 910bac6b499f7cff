package keys

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestClientIsNamedWithoutDoubt(t *testing.T) {
	one := Client{"https://as.example.com", "web"}
	if got := one.RecordID("pictify"); got != one.RecordID("pictify") || !regexp.MustCompile(`^key_client_[0-9A-Za-z]{22}$`).MatchString(got) ||
		IDProblem(got) != "" || !IsClientID(got) || limitIDProblem(got) != "" || CouldHoldSecret(got) {
		t.Errorf("id %q", got)
	}
	// Whatever moves from one part to the next is another client.
	others := []string{
		one.Lookup("genapi"), Client{"https://as.example.com/", "web"}.Lookup("pictify"), Client{"https://as.example.com", "we"}.Lookup("pictify"),
		Client{"https://as.example.co", "mweb"}.Lookup("pictify"), Client{"https://as.example.com", "Web"}.Lookup("pictify"),
	}
	for _, other := range others {
		if other == one.Lookup("pictify") {
			t.Errorf("%q is that of another client", other)
		}
	}
	// A key cannot have it, and so cannot be taken for a client.
	if SecretProblem(one.Lookup("pictify")) == "" {
		t.Error("it could be a secret")
	}
	for _, id := range []string{"key_0123456789abcdef", "client_web", "", "key_client_web", "key_client_" + strings.Repeat("x", 23), "key_client_0123456789_12345678901"} {
		if IsClientID(id) {
			t.Errorf("%q is taken for the id of a client", id)
		}
	}
}

func TestClientNames(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []Client{{"https://a", "b"}, {long(MaxIssuerBytes), long(MaxClientIDBytes)}, {"https://a", "two words: ~"}} {
		if err := c.Validate(); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	for field, wrong := range map[string][]Client{
		"issuer": {{"", "b"}, {long(MaxIssuerBytes + 1), "b"}, {"https://é", "b"}, {"https://a\x00", "b"}},
		"client": {{"https://a", ""}, {"https://a", long(MaxClientIDBytes + 1)}, {"https://a", "b\n"}, {"https://a", "\xff"}, {"https://a", "b\x00"}, {"https://a", "ß"}},
	} {
		for _, c := range wrong {
			var fault *FieldError
			if err := c.Validate(); !errors.As(err, &fault) || fault.Field != field {
				t.Errorf("%q: %v", c, err)
			}
		}
	}
}

func TestRecordsOfClients(t *testing.T) {
	c := Client{"https://as.example.com", "web"}
	of := func(edits ...func(*Key)) *Key {
		k := NewClient("pictify", c)
		k.Digest = Digest{1}
		for _, edit := range edits {
			edit(k)
		}
		return k
	}
	blocked := of(func(k *Key) {
		k.Status, k.Plan, k.Limits, k.Note = Inactive, "pro", []Override{{"day", 5}}, "n"
	})
	if err := blocked.Validate(); err != nil || !blocked.IsClient() {
		t.Error(err)
	}
	for field, edit := range map[string]func(*Key){
		"id":           func(k *Key) { k.ID = "key_0123456789abcdef" },
		"limit_id":     func(k *Key) { k.LimitID = "key_0123456789abcdef" },
		"name":         func(k *Key) { k.Name = "another" },
		"team":         func(k *Key) { k.Team = "orbit" },
		"environment":  func(k *Key) { k.Environment = "live" },
		"rotated_from": func(k *Key) { k.RotatedFrom = "key_0123456789abcdef" },
		"rotated_to":   func(k *Key) { k.RotatedTo = "key_0123456789abcdef" },
		"status":       func(k *Key) { k.Status = Revoked },
		"scopes":       func(k *Key) { k.Scopes = []string{"read"} },
		"expires_at":   func(k *Key) { k.ExpiresAt = k.ExpiresAt.AddDate(2026, 0, 0) },
		"client":       func(k *Key) { k.Client.ID = "" },
		"api":          func(k *Key) { k.API = "genapi"; k.ID = c.RecordID("genapi"); k.LimitID = k.ID; k.API = "Genapi" },
	} {
		var fault *FieldError
		if err := of(edit).Validate(); !errors.As(err, &fault) || fault.Field != field && field != "api" {
			t.Errorf("%s: %v", field, err)
		}
	}
	// What is not a client's has neither the name nor the id of one.
	key := of(func(k *Key) { k.Client = Client{} })
	var fault *FieldError
	if err := key.Validate(); key.IsClient() || !errors.As(err, &fault) || fault.Field != "id" {
		t.Errorf("a key with the id of a client: %v", err)
	}
}
