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
	minSecret     = 16
	maxSecret     = 512
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewSecret returns prefix + 27 random base62 characters from crypto/rand + 6 base62 characters of checksum. The
// prefix must be of the key alphabet A-Z a-z 0-9 . _ ~ + / = -.
func NewSecret(prefix string) string {
	random := make([]byte, 0, randomBytes)
	var pool [64]byte
	for len(random) < randomBytes {
		rand.Read(pool[:]) // never fails: the runtime ends the program instead
		for _, b := range pool {
			// Bytes from 248 up would make the first eight characters likelier than the others.
			if b < 248 && len(random) < randomBytes {
				random = append(random, base62[b%62])
			}
		}
	}
	return Seal(prefix, string(random))
}

// Seal returns prefix + random + the checksum of both, for fixtures whose secrets must stay the same.
func Seal(prefix, random string) string {
	body := prefix + random
	sum := checksum(body)
	return body + string(sum[:])
}

// HasChecksum reports whether secret is prefix, then at least 27 base62 characters, then the right checksum of all
// before it. It takes no more than 512 bytes and does not allocate.
func HasChecksum(secret, prefix string) bool {
	rest, ok := strings.CutPrefix(secret, prefix)
	if !ok || len(secret) > maxSecret || len(rest) < randomBytes+checksumBytes || !only(rest, isBase62) {
		return false
	}
	at := len(secret) - checksumBytes
	sum := checksum(secret[:at])
	return secret[at:] == string(sum[:])
}

// checksum is the CRC-32 (IEEE) of s as base62, most significant character first, filled with 0.
func checksum(s string) [checksumBytes]byte {
	// By hand instead of crc32.ChecksumIEEE, which would need a copy of s on the heap.
	crc := ^uint32(0)
	for i := range len(s) {
		crc = crc32.IEEETable[byte(crc)^s[i]] ^ crc>>8
	}
	crc = ^crc
	var out [checksumBytes]byte
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = base62[crc%62]
		crc /= 62
	}
	return out
}

func isSecretByte(c byte) bool { return isBase62(c) || strings.IndexByte("._~+/=-", c) >= 0 }

// secretProblem never says what the secret is.
func secretProblem(s string) string {
	switch {
	case len(s) < minSecret:
		return "is shorter than 16 bytes"
	case len(s) > maxSecret:
		return "is longer than 512 bytes"
	case !only(s, isSecretByte):
		return "has a byte outside A-Z a-z 0-9 . _ ~ + / = -"
	}
	return ""
}

// show quotes a value for an error text, unless a part of it could be a secret that was put in the wrong place.
func show(v string) string {
	if couldHoldSecret(v) {
		return "a value (not shown: it could be a secret)"
	}
	if len(v) > 80 {
		return strconv.Quote(v[:80]) + "…"
	}
	return strconv.Quote(v)
}

// couldHoldSecret looks for a run of secret bytes that is long enough to be one and has a letter (addresses have
// none). Key ids are not secrets.
func couldHoldSecret(v string) bool {
	for len(v) > 0 {
		n := 0
		for n < len(v) && isSecretByte(v[n]) {
			n++
		}
		run := v[:n]
		isID := strings.HasPrefix(run, "key_") && len(run) <= 64 && only(run, isIDByte)
		if n >= minSecret && !isID && strings.ContainsFunc(run, unicode.IsLetter) {
			return true
		}
		v = v[min(n+1, len(v)):]
	}
	return false
}
