package keys

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"strings"
	"sync"
)

const redacted = "[redacted]"

// Digest is the HMAC-SHA-256 of a secret: what the store knows a key by. It redacts itself wherever it is printed or
// encoded, because the digest of a weak secret can be guessed back.
type Digest [sha256.Size]byte

// String returns a fixed text instead of the digest.
func (Digest) String() string { return redacted }

// Format prints a fixed text instead of the digest, whatever the verb.
func (Digest) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue logs a fixed text instead of the digest.
func (Digest) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText encodes a fixed text instead of the digest. It never fails.
func (Digest) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (d Digest) hex() string { return hex.EncodeToString(d[:]) }

// parseHash reads "hmac-sha256:" and 64 hexadecimal digits. Its errors do not hold the value.
func parseHash(s string) (algorithm string, d Digest, err error) {
	digits, ok := strings.CutPrefix(s, AlgorithmHMACSHA256+":")
	if !ok || len(digits) != 2*len(d) {
		return "", Digest{}, fmt.Errorf("is not %s: followed by %d hexadecimal digits", AlgorithmHMACSHA256, 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return "", Digest{}, fmt.Errorf("is not %s: followed by %d hexadecimal digits", AlgorithmHMACSHA256, 2*len(d))
	}
	if d == (Digest{}) {
		return "", Digest{}, fmt.Errorf("is all zeroes")
	}
	return AlgorithmHMACSHA256, d, nil
}

// Hasher turns secrets into digests with one pepper. It is safe for concurrent use and never shows its pepper.
type Hasher struct {
	// Behind a pointer, so that fmt does not reach the pepper through an unexported field of another struct, where
	// it calls no Format method.
	states *sync.Pool
}

// hashState is reused: a ready HMAC costs two compressions less than a new one, and no allocation.
type hashState struct {
	digest, handle hash.Hash
	in             [maxSecret]byte
	out            Digest
}

// NewHasher returns a Hasher with its own copy of pepper. An empty pepper gives digests that everybody can compute,
// and handles that change with every Hasher.
func NewHasher(pepper []byte) *Hasher {
	pepper = bytes.Clone(pepper)
	handleKey := make([]byte, sha256.Size)
	if len(pepper) == 0 {
		rand.Read(handleKey)
	} else {
		derive := hmac.New(sha256.New, pepper)
		io.WriteString(derive, "tollgate key handle v1")
		handleKey = derive.Sum(nil)
	}
	return &Hasher{states: &sync.Pool{New: func() any {
		return &hashState{digest: hmac.New(sha256.New, pepper), handle: hmac.New(sha256.New, handleKey)}
	}}}
}

// Digest returns the HMAC-SHA-256 of secret under the pepper. It does not allocate.
func (h *Hasher) Digest(secret string) Digest {
	s := h.states.Get().(*hashState)
	d := s.sum(s.digest, secret)
	h.states.Put(s)
	return d
}

// Handle returns "key_" and 10 base62 characters: a name for a secret that belongs to no known key, for logs and
// error details. It is made with another key than Digest, so that it tells nothing about the stored hash.
func (h *Hasher) Handle(secret string) string {
	s := h.states.Get().(*hashState)
	d := s.sum(s.handle, secret)
	h.states.Put(s)
	n := binary.BigEndian.Uint64(d[:])
	out := []byte("key_0000000000")
	for i := len(out) - 1; i >= len("key_"); i-- {
		out[i] = base62[n%62]
		n /= 62
	}
	return string(out)
}

func (s *hashState) sum(mac hash.Hash, secret string) Digest {
	mac.Reset()
	for len(secret) > 0 {
		n := copy(s.in[:], secret)
		mac.Write(s.in[:n])
		secret = secret[n:]
	}
	mac.Sum(s.out[:0])
	// The pool must not keep secrets alive.
	clear(s.in[:])
	return s.out
}

// String returns a fixed text instead of the pepper.
func (Hasher) String() string { return "Hasher{" + redacted + "}" }

// Format prints a fixed text instead of the pepper, whatever the verb.
func (h Hasher) Format(f fmt.State, _ rune) { io.WriteString(f, h.String()) }

// LogValue logs a fixed text instead of the pepper.
func (h Hasher) LogValue() slog.Value { return slog.StringValue(h.String()) }

// MarshalText encodes a fixed text instead of the pepper. It never fails.
func (h Hasher) MarshalText() ([]byte, error) { return []byte(h.String()), nil }
