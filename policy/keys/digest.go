package keys

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

const Redacted = "[redacted]"

// Digest is the HMAC-SHA-256 of a secret: what the store knows a key by. It redacts itself wherever
// it is printed or encoded, because without a pepper the digest of a short secret can be guessed
// back.
type Digest [sha256.Size]byte

// String returns a fixed text instead of the digest.
func (Digest) String() string { return Redacted }

// Format prints a fixed text instead of the digest, whatever the verb.
func (Digest) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// LogValue logs a fixed text instead of the digest.
func (Digest) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText encodes a fixed text instead of the digest. It never fails.
func (Digest) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// ParseHash reads "hmac-sha256:" or "sha256:" and 64 hexadecimal digits. Its errors do not hold the
// value.
func ParseHash(s string) (algorithm string, d Digest, err error) {
	algorithm, digits, _ := strings.Cut(s, ":")
	form := fmt.Errorf("is not %s: or %s: followed by %d hexadecimal digits", AlgorithmHMACSHA256, AlgorithmSHA256, 2*len(d))
	if algorithmProblem(algorithm) != "" || len(digits) != 2*len(d) {
		return "", Digest{}, form
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return "", Digest{}, form
	}
	if d == (Digest{}) {
		return "", Digest{}, fmt.Errorf("is all zeroes")
	}
	return algorithm, d, nil
}

// AlgorithmSHA256 is the id of SHA-256 without a pepper, in which other systems keep keys. New keys
// never use it.
const AlgorithmSHA256 = "sha256"

func algorithmProblem(algorithm string) string {
	switch algorithm {
	case AlgorithmHMACSHA256, AlgorithmSHA256:
		return ""
	}
	return Quote(algorithm) + " is not " + AlgorithmHMACSHA256 + " or " + AlgorithmSHA256
}

// Method is a way in which secrets were once hashed. The zero Method is HMAC-SHA-256 without a
// pepper.
type Method struct {
	Algorithm string // AlgorithmHMACSHA256, which is also meant by "", or AlgorithmSHA256
	Pepper    []byte // of an HMAC
}

// String returns a fixed text instead of the pepper.
func (Method) String() string { return "Method{" + Redacted + "}" }

// Format prints a fixed text instead of the pepper, whatever the verb.
func (m Method) Format(f fmt.State, _ rune) { io.WriteString(f, m.String()) }

// LogValue logs a fixed text instead of the pepper.
func (m Method) LogValue() slog.Value { return slog.StringValue(m.String()) }

// MarshalText encodes a fixed text instead of the pepper. It never fails.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Hasher turns secrets into digests with one pepper, and with older methods into those that older
// records may still have. It is safe for concurrent use and never shows a pepper.
type Hasher struct {
	older int
	// Behind a pointer, so that fmt does not reach the pepper through an unexported field of
	// another struct, where it calls no Format method.
	states *sync.Pool
	// pepperSum checks the pepper of an older method, or the current one; nil for a method without
	// HMAC.
	pepperSum func(method int, salt []byte) []byte
}

// CurrentMethod stands for the method that is in use, in place of the number of an older one.
const CurrentMethod = -1

const (
	// PepperSumBytes is the length of a check of a pepper. Few bytes: enough to see a mistake, and
	// many wrong peppers give the same.
	PepperSumBytes = 4
	// pepperRounds make a guess at the pepper dearer than by the hash of a key whose secret one
	// knows, which takes one.
	pepperRounds = 50_000
)

// pepperSum returns the check of a pepper.
func pepperSum(pepper, salt []byte) []byte {
	sum, err := pbkdf2.Key(sha256.New, string(pepper), append([]byte("tollgate pepper check v1"), salt...), pepperRounds, PepperSumBytes)
	if err != nil {
		panic(err) // only for lengths that no machine has
	}
	return sum
}

// hashState is reused: a ready HMAC costs two compressions less than a new one, and no allocation.
type hashState struct {
	digest, handle hash.Hash
	older          []hash.Hash
	in             [maxSecret]byte
	out            Digest
}

// NewHasher returns a Hasher with its own copy of pepper. An empty pepper gives digests that
// everybody can compute, and handles that change with every Hasher. older are the methods whose
// digests still lead to a key, the likeliest first.
func NewHasher(pepper []byte, older ...Method) *Hasher {
	pepper = bytes.Clone(pepper)
	handleKey := make([]byte, sha256.Size)
	if len(pepper) == 0 {
		rand.Read(handleKey)
	} else {
		derive := hmac.New(sha256.New, pepper)
		io.WriteString(derive, "tollgate key handle v1")
		handleKey = derive.Sum(nil)
	}
	older = slices.Clone(older)
	for i := range older {
		older[i].Pepper = bytes.Clone(older[i].Pepper)
	}
	check := func(method int, salt []byte) []byte {
		switch {
		case method == CurrentMethod:
			return pepperSum(pepper, salt)
		case older[method].Algorithm == AlgorithmSHA256:
			return nil
		}
		return pepperSum(older[method].Pepper, salt)
	}
	return &Hasher{older: len(older), pepperSum: check, states: &sync.Pool{New: func() any {
		s := &hashState{digest: hmac.New(sha256.New, pepper), handle: hmac.New(sha256.New, handleKey)}
		for _, m := range older {
			s.older = append(s.older, m.hash())
		}
		return s
	}}}
}

func (m Method) hash() hash.Hash {
	if m.Algorithm == AlgorithmSHA256 {
		return sha256.New()
	}
	return hmac.New(sha256.New, m.Pepper)
}

// Peppered reports whether the digests need a pepper: without one everybody can compute them.
func (h *Hasher) Peppered() bool {
	bare := hmac.New(sha256.New, nil)
	d := h.Digest("")
	return !hmac.Equal(d[:], bare.Sum(nil))
}

// PepperSum returns a check of the pepper of the older method i, or of CurrentMethod, with a salt:
// PepperSumBytes bytes, or nil for a method without one. It takes some ten milliseconds.
func (h *Hasher) PepperSum(i int, salt []byte) []byte { return h.pepperSum(i, salt) }

// Older returns the number of older methods.
func (h *Hasher) Older() int { return h.older }

// OlderDigest returns the digest of secret by the older method i, from 0 up. It does not allocate.
func (h *Hasher) OlderDigest(i int, secret string) Digest {
	s := h.states.Get().(*hashState)
	d := s.sum(s.older[i], secret)
	h.states.Put(s)
	return d
}

// Digest returns the HMAC-SHA-256 of secret under the pepper. It does not allocate.
func (h *Hasher) Digest(secret string) Digest {
	s := h.states.Get().(*hashState)
	d := s.sum(s.digest, secret)
	h.states.Put(s)
	return d
}

// Handle returns "key_" and 10 base62 characters: a name for a secret that belongs to no known key,
// for logs and error details. It is made with another key than Digest, so that it tells nothing
// about the stored hash.
func (h *Hasher) Handle(secret string) string {
	s := h.states.Get().(*hashState)
	d := s.sum(s.handle, secret)
	h.states.Put(s)
	n := binary.BigEndian.Uint64(d[:])
	out := []byte("key_0000000000")
	for i := len(out) - 1; i >= len("key_"); i-- {
		out[i] = Base62[n%62]
		n /= 62
	}
	return string(out)
}

// sum leaves mac ready for the next secret. Resetting it afterwards and not before also
// takes the last block of this one out of an HMAC: the pool must not keep secrets alive.
func (s *hashState) sum(mac hash.Hash, secret string) Digest {
	for len(secret) > 0 {
		n := copy(s.in[:], secret)
		mac.Write(s.in[:n])
		secret = secret[n:]
	}
	mac.Sum(s.out[:0])
	mac.Reset()
	clear(s.in[:])
	return s.out
}

// String returns a fixed text instead of the pepper.
func (Hasher) String() string { return "Hasher{" + Redacted + "}" }

// Format prints a fixed text instead of the pepper, whatever the verb.
func (h Hasher) Format(f fmt.State, _ rune) { io.WriteString(f, h.String()) }

// LogValue logs a fixed text instead of the pepper.
func (h Hasher) LogValue() slog.Value { return slog.StringValue(h.String()) }

// MarshalText encodes a fixed text instead of the pepper. It never fails.
func (h Hasher) MarshalText() ([]byte, error) { return []byte(h.String()), nil }
