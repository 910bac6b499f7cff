package oauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
)

// The bounds of a set of keys. A signature is tried with each that fits, so few may share an id.
const (
	MaxKeySet  = 256 << 10 // bytes
	maxKeys    = 100
	maxSameID  = 4
	maxKeyID   = MaxToken
	leastRSA   = 2048 // bits
	largestRSA = 8192
)

// Key is a public key of an issuer.
type Key struct {
	id, algorithm string
	public        any // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// KeySet is the keys of an issuer by which tokens can be verified. It is never changed.
type KeySet struct {
	byID map[string][]Key
	all  []Key
	// Ignored says which keys of the document are not used, and why, for people.
	Ignored []string
}

// ParseKeySet reads a JWK Set (RFC 7517). What cannot be meant for signatures of tokens is left
// out: symmetric and private keys, which are none of the public's, keys for encryption, weak ones,
// and kinds that are not known here.
func ParseKeySet(data []byte) (*KeySet, error) {
	if len(data) > MaxKeySet {
		return nil, fmt.Errorf("a set of keys of more than %d bytes", MaxKeySet)
	}
	members, err := object(data)
	if err != nil {
		return nil, fmt.Errorf("no set of keys: %w", err)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(members["keys"], &raw); err != nil || raw == nil {
		return nil, errors.New("no set of keys: keys is not a list")
	}
	if len(raw) > maxKeys {
		return nil, fmt.Errorf("a set of %d keys, more than %d", len(raw), maxKeys)
	}
	s := &KeySet{byID: map[string][]Key{}}
	for n, one := range raw {
		k, err := parseKey(one)
		if err == nil && k.id != "" && len(s.byID[k.id]) == maxSameID {
			err = errors.New("too many keys have its id")
		}
		if err != nil {
			s.Ignored = append(s.Ignored, fmt.Sprintf("keys[%d]: %v", n, err))
			continue
		}
		s.all = append(s.all, k)
		s.byID[k.id] = append(s.byID[k.id], k)
	}
	if len(s.all) == 0 {
		return nil, errors.New("no key in it can verify tokens")
	}
	return s, nil
}

func parseKey(data []byte) (k Key, err error) {
	members, err := object(data)
	if err != nil {
		return k, err
	}
	c := &Claims{members: members}
	kind, _ := c.Text("kty")
	use, err := c.Text("use")
	operations, wrong := c.texts("key_ops")
	switch {
	case kind == "oct" || members["k"] != nil:
		return k, errors.New("a symmetric key, which nobody may publish")
	case members["d"] != nil || members["priv"] != nil:
		return k, errors.New("a private key, which nobody may publish")
	case err != nil || wrong != nil || use != "" && use != "sig" || operations != nil && !slices.Contains(operations, "verify"):
		return k, errors.New("not for signatures")
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(data); err != nil {
		return k, errors.New("a kind of key that is not known here, or a broken one")
	}
	if !parsed.Valid() || !parsed.IsPublic() || len(parsed.KeyID) > maxKeyID {
		return k, errors.New("not a public key")
	}
	if r, ok := parsed.Key.(*rsa.PublicKey); ok && (r.N.BitLen() < leastRSA || r.N.BitLen() > largestRSA) {
		return k, fmt.Errorf("an RSA key of %d bits, want %d to %d", r.N.BitLen(), leastRSA, largestRSA)
	}
	return Key{parsed.KeyID, parsed.Algorithm, parsed.Key}, nil
}

// Find returns the keys that can have made a signature: those with the id, or all for a token that
// names none, which are for the algorithm. known reports whether any key has the id.
func (s *KeySet) Find(id, algorithm string) (fitting []Key, known bool) {
	of := s.all
	if id != "" {
		of = s.byID[id]
	}
	for _, k := range of {
		if k.fits(algorithm) && len(fitting) < maxSameID {
			fitting = append(fitting, k)
		}
	}
	return fitting, len(of) > 0
}

// fits reports whether a key is for signatures by an algorithm.
func (k *Key) fits(algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[algorithm]
		return curve != nil && public.Curve == curve
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// Lost returns the ids of the keys of an earlier set that s has no more.
func (s *KeySet) Lost(earlier *KeySet) (ids []string) {
	for _, old := range earlier.all {
		if !slices.ContainsFunc(s.byID[old.id], old.equal) {
			ids = append(ids, old.id)
		}
	}
	return ids
}

func (k *Key) equal(other Key) bool {
	public, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.id == other.id && k.algorithm == other.algorithm && public.Equal(other.public)
}

// Size returns how many keys can verify tokens.
func (s *KeySet) Size() int { return len(s.all) }
