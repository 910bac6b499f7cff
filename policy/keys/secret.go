package keys

import (
	"crypto/rand"
	"hash/crc32"
	"strconv"
	"strings"
	"unicode"
)

// The lengths of a secret's parts and of a whole secret, in bytes.
const (
	randomBytes   = 27 // 27 base62 characters hold 160.7 bits
	checksumBytes = 6  // 6 base62 characters hold 35.7 bits, a CRC-32 needs 32
	// SecretBytes is the length of what NewSecret puts behind the prefix.
	SecretBytes = randomBytes + checksumBytes

	MinSecret = 16
	maxSecret = 512
)

const Base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewSecret returns prefix + 27 random base62 characters from crypto/rand + 6 base62 characters of
// checksum. The prefix must be of the key alphabet A-Z a-z 0-9 . _ ~ + / = -.
func NewSecret(prefix string) string {
	random := make([]byte, 0, randomBytes)
	var pool [64]byte
	for len(random) < randomBytes {
		rand.Read(pool[:]) // never fails: the runtime ends the program instead
		for _, b := range pool {
			// Bytes from 248 up would make the first eight characters likelier than the others.
			if b < 248 && len(random) < randomBytes {
				random = append(random, Base62[b%62])
			}
		}
	}
	return Seal(prefix, string(random))
}

// Seal returns prefix + random + the checksum of both, for fixtures whose secrets must stay the
// same.
func Seal(prefix, random string) string {
	body := prefix + random
	sum := checksum(body)
	return body + string(sum[:])
}

// HasChecksum reports whether secret is prefix, then at least 27 base62 characters, then the right
// checksum of all before it. It takes no more than 512 bytes and does not allocate.
func HasChecksum(secret, prefix string) bool {
	rest, ok := strings.CutPrefix(secret, prefix)
	if !ok || len(secret) > maxSecret || len(rest) < SecretBytes || !only(rest, isBase62) {
		return false
	}
	at := len(secret) - checksumBytes
	sum := checksum(secret[:at])
	return secret[at:] == string(sum[:])
}

// HoldsSecret reports whether a text that should hold none has a secret with this prefix in it, of
// the form that NewSecret gives and up to twice its length. Without a prefix only a whole word of
// base62 is one.
func HoldsSecret(text, prefix string) bool {
	const shortest, longest = SecretBytes, 2 * SecretBytes
	for at := 0; at+len(prefix)+shortest <= len(text); at++ {
		if !strings.HasPrefix(text[at:], prefix) || prefix == "" && at > 0 && isBase62(text[at-1]) {
			continue
		}
		rest, n := text[at:], len(prefix)
		for n < len(rest) && n < len(prefix)+longest && isBase62(rest[n]) {
			n++
		}
		for ; n >= len(prefix)+shortest; n-- {
			if HasChecksum(rest[:n], prefix) {
				return true
			}
			if prefix == "" {
				break
			}
		}
	}
	return false
}

// HoldsNewSecret reports whether a text has something of the form of NewSecret after any prefix in
// it, for texts that stand under no policy which would say how keys start: so that a member's token
// is one too.
func HoldsNewSecret(text string) bool {
	for start := range len(text) {
		// The checksum is of all between start and at.
		crc := ^uint32(0)
		for at := start; at+checksumBytes <= len(text) && isSecretByte(text[at]); at++ {
			sum := checksumText(crc)
			if at-start >= randomBytes && only(text[at-randomBytes:at], isBase62) && text[at:at+checksumBytes] == string(sum[:]) {
				return true
			}
			crc = checksumStep(crc, text[at])
		}
	}
	return false
}

// checksum is the CRC-32 (IEEE) of s as base62, most significant character first, filled with 0.
func checksum(s string) [checksumBytes]byte {
	// By hand instead of crc32.ChecksumIEEE, which would need a copy of s on the heap.
	crc := ^uint32(0)
	for i := range len(s) {
		crc = checksumStep(crc, s[i])
	}
	return checksumText(crc)
}

func checksumStep(crc uint32, c byte) uint32 { return crc32.IEEETable[byte(crc)^c] ^ crc>>8 }

func checksumText(crc uint32) [checksumBytes]byte {
	crc = ^crc
	var out [checksumBytes]byte
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = Base62[crc%62]
		crc /= 62
	}
	return out
}

func isSecretByte(c byte) bool { return isBase62(c) || strings.IndexByte("._~+/=-", c) >= 0 }

// SecretProblem never says what the secret is.
func SecretProblem(s string) string {
	switch {
	case len(s) < MinSecret:
		return "is shorter than 16 bytes"
	case len(s) > maxSecret:
		return "is longer than 512 bytes"
	case !only(s, isSecretByte):
		return "has a byte outside A-Z a-z 0-9 . _ ~ + / = -"
	}
	return ""
}

// Quote quotes a value for an error text, unless a part of it could be a secret that was put in the
// wrong place.
func Quote(v string) string {
	if CouldHoldSecret(v) {
		return "a value (not shown: it could be a secret)"
	}
	if len(v) > 80 {
		return strconv.Quote(v[:80]) + "…"
	}
	return strconv.Quote(v)
}

// CouldHoldSecret looks for a run of secret bytes that is long enough to be one and has a letter
// (addresses have none). Key ids are not secrets.
func CouldHoldSecret(v string) bool {
	for len(v) > 0 {
		n := 0
		for n < len(v) && isSecretByte(v[n]) {
			n++
		}
		run := v[:n]
		isID := strings.HasPrefix(run, "key_") && len(run) <= 64 && only(run, isIDByte)
		if n >= MinSecret && !isID && strings.ContainsFunc(run, unicode.IsLetter) {
			return true
		}
		v = v[min(n+1, len(v)):]
	}
	return false
}
