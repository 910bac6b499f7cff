package oauth

import (
	"crypto/sha256"
	"math/big"
)

// Client is a client of an issuer as an API knows it. It is the same for all its tokens, so limits,
// usage and blocks belong to it.
type Client struct{ API, Issuer, ID string }

// MaxClient is the longest id of a client, in bytes: that of a key's name.
const MaxClient = 128

// String is the client for people.
func (c Client) String() string { return "client:" + c.Issuer + ":" + c.ID }

// Lookup is the text whose digest leads to the client's record in the store, as that of a secret
// leads to a key's. No key has such a secret: the bytes between the parts are none of a secret. It
// is not secret itself.
func (c Client) Lookup() string { return "client\x00" + c.API + "\x00" + c.Issuer + "\x00" + c.ID }

// recordPrefix begins the ids of clients' records.
const recordPrefix = "key_client_"

// recordDigits is how many base62 digits 128 bits take.
const recordDigits = 22

// RecordID is the id of the client's record, whether there is one or not: what its counters and its
// usage are kept under. It has the form of a key's id.
func (c Client) RecordID() string {
	sum := sha256.Sum256([]byte(c.Lookup()))
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var out [recordDigits]byte
	n, base, digit := new(big.Int).SetBytes(sum[:16]), big.NewInt(int64(len(digits))), new(big.Int)
	for i := len(out) - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		out[i] = digits[digit.Int64()]
	}
	return recordPrefix + string(out[:])
}

// ClientProblem says what is wrong with the id of a client, "" if nothing is.
func ClientProblem(id string) string {
	switch {
	case id == "":
		return "is empty"
	case len(id) > MaxClient:
		return "is longer than 128 bytes"
	case !printable(id):
		return "has characters that are not printable ASCII"
	}
	return ""
}
