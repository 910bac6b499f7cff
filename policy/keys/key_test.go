package keys

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// sample is a valid key; edits make it another one.
func sample(edits ...func(*Key)) *Key {
	k := &Key{
		ID: "key_pb_full", API: "pixelbyte", Team: "team_orbit", Name: "Render farm", LimitID: "key_pb_full",
		Status: Active, AnchorDay: 1, Version: 1, Algorithm: AlgorithmHMACSHA256, Digest: Digest{1, 2, 3},
	}
	for _, edit := range edits {
		edit(k)
	}
	return k
}

func withIPs(list ...string) func(*Key) {
	return func(k *Key) {
		for _, s := range list {
			prefix, err := ParseAddress(s)
			if err != nil {
				panic(err)
			}
			k.IPs = append(k.IPs, prefix)
		}
	}
}

func TestAllows(t *testing.T) {
	type verdict struct {
		address string
		allowed bool
	}
	allow := func(a string) verdict { return verdict{a, true} }
	deny := func(a string) verdict { return verdict{a, false} }
	for _, test := range []struct {
		name string
		list []string
		want []verdict
	}{
		{"no list", nil, []verdict{allow("10.0.0.1"), allow("2001:db8::1"), allow("fe80::1%eth0"), allow("")}},
		{"one address", []string{"10.0.0.1"}, []verdict{allow("10.0.0.1"), allow("::ffff:10.0.0.1"), deny("10.0.0.2"), deny("::10.0.0.1"), deny("")}},
		{"range", []string{"10.0.0.0/8"}, []verdict{allow("10.0.0.0"), allow("10.255.255.255"), allow("::ffff:10.9.9.9"), deny("11.0.0.0"), deny("9.255.255.255")}},
		{"mapped in the list", []string{"::ffff:10.0.0.1", "::ffff:192.0.2.0/120"}, []verdict{allow("10.0.0.1"), allow("192.0.2.9"), allow("::ffff:192.0.2.9"), deny("192.0.3.1")}},
		{"IPv6", []string{"2001:db8::/32", "fe80::1"}, []verdict{allow("2001:db8:ffff::1"), allow("fe80::1%eth0"), deny("2001:db9::1"), deny("10.0.0.1")}},
		{"all of IPv6", []string{"::/0"}, []verdict{allow("2001:db8::1"), deny("10.0.0.1"), deny("::ffff:10.0.0.1")}},
		{"all of IPv4", []string{"0.0.0.0/0"}, []verdict{allow("10.0.0.1"), allow("::ffff:10.0.0.1"), deny("::1")}},
		{"several", []string{"192.0.2.1", "198.51.100.0/24"}, []verdict{allow("192.0.2.1"), allow("198.51.100.7"), deny("192.0.2.2")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := sample(withIPs(test.list...))
			for _, want := range test.want {
				a, _ := netip.ParseAddr(want.address) // "" is the address that nobody knows
				if got := k.Allows(a); got != want.allowed {
					t.Errorf("Allows(%q) = %v, want %v", want.address, got, want.allowed)
				}
			}
		})
	}
}

func TestExpired(t *testing.T) {
	at := func(s string) time.Time { v, _ := time.Parse(time.RFC3339Nano, s); return v }
	end := at("2026-01-15T12:00:00Z")
	for _, test := range []struct {
		name             string
		expires, retires time.Time
		now              string
		want             bool
	}{
		{"never", time.Time{}, time.Time{}, "9999-01-01T00:00:00Z", false},
		{"before", end, time.Time{}, "2026-01-15T11:59:59.999999999Z", false},
		{"at the instant", end, time.Time{}, "2026-01-15T12:00:00Z", true},
		{"after", end, time.Time{}, "2026-01-15T12:00:00.1Z", true},
		{"in the grace", time.Time{}, end, "2026-01-15T11:59:59Z", false},
		{"grace over", time.Time{}, end, "2026-01-15T12:00:00Z", true},
		{"expiry inside the grace", end, end.Add(time.Hour), "2026-01-15T12:00:00Z", true},
		{"grace inside the expiry", end.Add(time.Hour), end, "2026-01-15T12:00:00Z", true},
		{"another time zone", end, time.Time{}, "2026-01-15T13:00:00+01:00", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := sample(func(k *Key) { k.ExpiresAt, k.RetiresAt = test.expires, test.retires })
			if got := k.Expired(at(test.now)); got != test.want {
				t.Errorf("Expired(%s) = %v, want %v", test.now, got, test.want)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	if err := sample().Validate(); err != nil {
		t.Fatal(err)
	}
	full := sample(withIPs("10.0.0.0/8", "2001:db8::1"), func(k *Key) {
		k.ID, k.Note, k.Plan, k.Environment = "key_"+strings.Repeat("z", 60), "été", "pro", "live"
		k.RotatedFrom, k.RotatedTo, k.AnchorDay, k.Status = "key_1234", "key_5678", 31, Deleted
		k.Scopes, k.Limits = []string{"read", "urn:x/y"}, []Override{{"minute", 0}, {"day", 5}}
	})
	if err := full.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateRefuses(t *testing.T) {
	long, noon := strings.Repeat("x y", 500), time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		edit func(*Key)
		want string // how the error starts: the field
	}{
		{func(k *Key) { k.ID = "" }, "id: "},
		{func(k *Key) { k.ID = "key_abc" }, `id: "key_abc" is not key_`},
		{func(k *Key) { k.ID = "key_" + strings.Repeat("z", 61) }, "id: "},
		{func(k *Key) { k.ID = "key_a}{b" }, "id: "},
		{func(k *Key) { k.ID = "kei_abcd" }, "id: "},
		{func(k *Key) { k.API = "Pixel" }, `api: "Pixel" is not`},
		{func(k *Key) { k.API = "pixel_byte" }, "api: "},
		{func(k *Key) { k.Name = "" }, "name: is empty"},
		{func(k *Key) { k.Name = long }, "name: is longer than 128 bytes"},
		{func(k *Key) { k.Team = "a\r\nb" }, "team: has a control character"},
		{func(k *Key) { k.Team = "a\xff" }, "team: is not UTF-8"},
		{func(k *Key) { k.Note = long }, "note: is longer than 1024 bytes"},
		{func(k *Key) { k.Environment = "\x00" }, "environment: "},
		{func(k *Key) { k.Plan = "\u0085" }, "plan: "},
		{func(k *Key) { k.LimitID = "" }, "limit_id: "},
		{func(k *Key) { k.LimitID = "a}b" }, "limit_id: "},
		{func(k *Key) { k.CreatedBy = "\n" }, "created_by: "},
		{func(k *Key) { k.RotatedFrom = "x" }, "rotated_from: "},
		{func(k *Key) { k.RotatedTo = "x" }, "rotated_to: "},
		{func(k *Key) { k.Scopes = []string{"read", ""} }, "scopes[1]: "},
		{func(k *Key) { k.Scopes = []string{"a,b"} }, "scopes[0]: "},
		{func(k *Key) { k.Scopes = []string{"a", "a"} }, `scopes[1]: "a" is named twice`},
		{func(k *Key) { k.IPs = []netip.Prefix{{}} }, "ips[0]: "},
		{func(k *Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }, "ips[0]: "},
		{func(k *Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} }, "ips[0]: "},
		{func(k *Key) { k.Limits = []Override{{"", 1}} }, "limits[0].name: "},
		{func(k *Key) { k.Limits = []Override{{"a", 1}, {"a", 1}} }, "limits[1].name: "},
		{func(k *Key) { k.Limits = []Override{{"a", -1}} }, "limits[0].requests: -1 is not 0 to 1125899906842624"},
		{func(k *Key) { k.Extras = []Extra{{"", 1, noon}} }, "extras[0].name: is empty"},
		{func(k *Key) { k.Extras = []Extra{{"a", 1, noon}, {"a", 0, noon}} }, "extras[1].requests: 0 is not 1 to 1125899906842624"},
		{func(k *Key) { k.Extras = []Extra{{"a", 1<<50 + 1, noon}} }, "extras[0].requests: "},
		{func(k *Key) { k.Extras = []Extra{{Name: "a", Requests: 1}} }, "extras[0].until: is missing"},
		{func(k *Key) { k.Extras = []Extra{{"a", 1, noon.AddDate(9000, 0, 0)}} }, "extras[0].until: the year 11026"},
		{func(k *Key) { k.Extras = make([]Extra, 17) }, "extras: 17 are more than the 16 that a key may have"},
		{func(k *Key) { k.Status = "" }, "status: "},
		{func(k *Key) { k.Status = "gone" }, `status: "gone" is not active`},
		{func(k *Key) { k.ExpiresAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "expires_at: "},
		{func(k *Key) { k.RetiresAt = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) }, "retires_at: "},
		{func(k *Key) { k.CreatedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "created_at: "},
		{func(k *Key) { k.UpdatedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "updated_at: "},
		{func(k *Key) { k.AnchorDay = 32 }, "anchor_day: "},
		{func(k *Key) { k.Version = 0 }, "version: "},
		{func(k *Key) { k.Algorithm = "md5" }, "algorithm: "},
		{func(k *Key) { k.Digest = Digest{} }, "hash: is missing"},
	} {
		err := sample(test.edit).Validate()
		var field *FieldError
		if !errors.As(err, &field) || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("Validate = %v, want %s…", err, test.want)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1":            "10.0.0.1/32",
		"10.0.0.0/8":          "10.0.0.0/8",
		"::1":                 "::1/128",
		"2001:DB8::/32":       "2001:db8::/32",
		"::ffff:10.0.0.1":     "10.0.0.1/32",
		"::ffff:10.0.0.0/104": "10.0.0.0/8",
		"0.0.0.0/0":           "0.0.0.0/0",
	} {
		if got, err := ParseAddress(in); err != nil || got.String() != want {
			t.Errorf("parseAddress(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                    `"" is not an IP address or CIDR`,
		"10.0.0":              `"10.0.0" is not an IP address or CIDR`,
		"10.0.0.0/33":         `"10.0.0.0/33" is not an IP address or CIDR`,
		"192.168.100.100/33":  `"192.168.100.100/33" is not an IP address or CIDR`,
		"10.0.0.1/8":          `"10.0.0.1/8" has bits set beyond its length; did you mean 10.0.0.0/8?`,
		"::ffff:10.0.0.1/104": `"::ffff:10.0.0.1/104" has bits set beyond its length; did you mean 10.0.0.0/8?`,
		"::ffff:10.0.0.0/90":  `"::ffff:10.0.0.0/90" has bits set beyond its length; did you mean ::ffc0:0:0/90?`,
		"fe80::1%eth0":        `"fe80::1%eth0" has a zone, which means nothing on another machine`,
		"fe80::%eth0/64":      `"fe80::%eth0/64" has a zone, which means nothing on another machine`,
	} {
		if got, err := ParseAddress(in); err == nil || err.Error() != want {
			t.Errorf("parseAddress(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
}

// The time to judge a list grows with the list.
func TestValidateLongLists(t *testing.T) {
	var scopes []string
	for i := range 100_000 {
		scopes = append(scopes, fmt.Sprintf("s%d", i))
	}
	began := time.Now()
	k := sample(func(k *Key) { k.Scopes = append(scopes, "s5") })
	if err := k.Validate(); err == nil || err.Error() != `scopes[100000]: "s5" is named twice` {
		t.Error(err)
	}
	if spent := time.Since(began); spent > 5*time.Second {
		t.Errorf("100,000 scopes took %v", spent)
	}
}

func TestClone(t *testing.T) {
	k := sample(withIPs("10.0.0.0/8"), func(k *Key) { k.Scopes, k.Limits = []string{"read"}, []Override{{"minute", 5}} })
	k.Extras = []Extra{{"minute", 5, time.Time{}}}
	c := k.Clone()
	if !reflect.DeepEqual(c, k) {
		t.Errorf("%+v", c)
	}
	c.Scopes[0], c.Limits[0].Requests, c.Extras[0].Requests, c.IPs[0] = "other", 9, 9, netip.Prefix{}
	if k.Scopes[0] != "read" || k.Limits[0].Requests != 5 || k.Extras[0].Requests != 5 || !k.IPs[0].IsValid() {
		t.Error("a change of the clone changes the key")
	}
}
