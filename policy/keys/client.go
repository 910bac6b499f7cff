package keys

import (
	"crypto/sha256"
	"math/big"
	"strings"
)

// Client is who access tokens were issued to, in the words of their issuer. It presents no secret
// of ours, and may have a record like a key's. The zero Client is none.
type Client struct {
	Issuer string // as tokens name it (iss)
	ID     string // as the issuer names the client (client_id, azp or sub)
}

// The longest names of a client, in bytes.
const (
	MaxIssuerBytes   = 1024
	MaxClientIDBytes = MaxNameBytes
)

// What the ids of clients' records consist of.
const (
	clientPrefix = "key_client_"
	clientDigits = 22 // of base62 take 128 bits
)

// Lookup is the text whose digest leads to the client's record in an API, as that of a secret leads
// to a key's. It is no secret, and no key can have it: the bytes between its parts are none of a
// secret.
func (c Client) Lookup(api string) string {
	return "client\x00" + api + "\x00" + c.Issuer + "\x00" + c.ID
}

// RecordID is the id of the client's record in an API, and names its counters, whether there is a
// record or not. It has the form of a key's id.
func (c Client) RecordID(api string) string {
	sum := sha256.Sum256([]byte(c.Lookup(api)))
	var out [clientDigits]byte
	n, base, digit := new(big.Int).SetBytes(sum[:16]), big.NewInt(int64(len(Base62))), new(big.Int)
	for i := len(out) - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		out[i] = Base62[digit.Int64()]
	}
	return clientPrefix + string(out[:])
}

// Validate returns a *FieldError for a name that no client of an issuer can have, or nil.
func (c Client) Validate() error {
	for _, f := range []struct {
		field, text string
		most        int
	}{{"issuer", c.Issuer, MaxIssuerBytes}, {"client", c.ID, MaxClientIDBytes}} {
		problem := needed(f.text, TextProblem(f.text, f.most))
		if problem == "" && !only(f.text, func(b byte) bool { return b < 0x7f }) {
			problem = "has a character that is not ASCII"
		}
		if problem != "" {
			return &FieldError{f.field, problem}
		}
	}
	return nil
}

// NewClient returns the record of a client as its first change finds it: active, without a plan of
// its own, and without what only the store's writer knows.
func NewClient(api string, c Client) *Key {
	id := c.RecordID(api)
	return &Key{ID: id, API: api, Name: c.ID, LimitID: id, Client: c, Status: Active, Version: 1, Algorithm: AlgorithmHMACSHA256}
}

// IsClient reports whether k is the record of a client, and not of a key.
func (k *Key) IsClient() bool { return k.Client != Client{} }

// IsClientID reports whether an id has the form of that of a client's record. No key may have it.
func IsClientID(id string) bool {
	rest, ok := strings.CutPrefix(id, clientPrefix)
	return ok && len(rest) == clientDigits && only(rest, isBase62)
}

// clientProblems checks what the record of a client cannot have.
func (k *Key) clientProblems(note func(field, problem string)) {
	if err := k.Client.Validate(); err != nil {
		note("client", err.Error())
		return
	}
	own := NewClient(k.API, k.Client)
	for _, f := range []struct{ field, is, want string }{
		{"id", k.ID, own.ID}, {"limit_id", k.LimitID, own.LimitID}, {"name", k.Name, own.Name}, {"team", k.Team, ""},
		{"environment", k.Environment, ""}, {"rotated_from", k.RotatedFrom, ""}, {"rotated_to", k.RotatedTo, ""},
	} {
		if f.is != f.want {
			note(f.field, "is not that of the client")
		}
	}
	switch {
	case k.Status != Active && k.Status != Inactive:
		note("status", "of a client is active or inactive")
	case len(k.Scopes) > 0:
		note("scopes", "of a client are those of its tokens")
	case !k.ExpiresAt.IsZero() || !k.RetiresAt.IsZero():
		note("expires_at", "of a client is that of its tokens")
	}
}
