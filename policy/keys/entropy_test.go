package keys

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func TestEntropyOfKnownTexts(t *testing.T) {
	for _, c := range []struct {
		secret string
		most   float64
	}{
		{"", 0},
		{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 60},
		{"1234567890123456789012345678901234567890", 80},
		{"abcdefghijklmnopqrstuvwxyz0123456789", 60},
		{"0123456789012345678901234567890123456", 100},
		{"qwertyuiopasdfghjklzxcvbnm1234567890", 60},
		{"correct-horse-battery-staple", 70},
		{"CorrectHorseBatteryStapleCorrectHorse", 90},
		{"my-super-secret-api-key-for-production", 100},
		{"3f2504e0-4f89-41d3-9a0c-0305e82c3301", 127}, // a UUID has 122
		{"sk_live_4eC39HqLyjWDarjt", 127},             // 16 base62 are 95
		{"sk_test_aaaaBBBBccccDDDD1111", 100},
		{"mobile-api-key-123", 100},
		{"secretsecretsecretsecretsecretsecret", 60},
		{"8f14e45fceea167a", 65},
		{"abcacdbabdacbcadbcdabcbdacadcbdb", 100}, // 4 characters, of which no run comes again
	} {
		if got := EntropyBits(c.secret); got > c.most || got < 0 {
			t.Errorf("%q: %.0f bits, want at most %.0f", c.secret, got, c.most)
		}
	}
}

// What people make with a proper generator must not be called weak, or they would be told to add a pepper for nothing.
func TestEntropyOfRandomTexts(t *testing.T) {
	for _, c := range []struct {
		what   string
		make   func() string
		strong bool
	}{
		{"ours", func() string { return NewSecret("pk_live_") }, true},
		{"27 base62", func() string { return NewSecret("")[:27] }, true},
		{"32 bytes as hex", func() string { return hex.EncodeToString(random(32)) }, true},
		{"32 bytes as base64", func() string { return base64.StdEncoding.EncodeToString(random(32)) }, true},
		{"32 bytes as base64url", func() string { return base64.RawURLEncoding.EncodeToString(random(32)) }, true},
		{"16 bytes as hex", func() string { return hex.EncodeToString(random(16)) }, true},
		{"20 base62", func() string { return NewSecret("")[:20] }, false},
		{"8 bytes as hex, named", func() string { return "prod-key-" + hex.EncodeToString(random(8)) }, false},
		{"a UUID", func() string {
			s := hex.EncodeToString(random(16))
			return fmt.Sprintf("%s-%s-4%s-9%s-%s", s[:8], s[8:12], s[12:15], s[15:18], s[18:30])
		}, false},
	} {
		wrong := 0
		for range 2000 {
			if (EntropyBits(c.make()) >= StrongBits) != c.strong {
				wrong++
			}
		}
		if wrong > 20 || wrong > 0 && !c.strong {
			t.Errorf("%s: %d of 2000 estimates are on the wrong side of %d bits", c.what, wrong, StrongBits)
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func FuzzEntropy(f *testing.F) {
	f.Add("sk_live_4eC39HqLyjWDarjt")
	f.Add("a")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.Map(func(r rune) rune {
			if r < 128 && isSecretByte(byte(r)) {
				return r
			}
			return -1
		}, s)
		if len(s) > maxSecret {
			s = s[:maxSecret]
		}
		if got := EntropyBits(s); !(got >= 0 && got <= 6.2*float64(len(s))) {
			t.Errorf("%q: %v", s, got)
		}
	})
}

func TestPeppered(t *testing.T) {
	if NewHasher(nil).Peppered() || !NewHasher([]byte("p")).Peppered() {
		t.Error("a hasher does not know whether it has a pepper")
	}
}

func BenchmarkEntropy(b *testing.B) {
	s := NewSecret("pk_live_")
	b.ReportAllocs()
	for b.Loop() {
		EntropyBits(s)
	}
}
