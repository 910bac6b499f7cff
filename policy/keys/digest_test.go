package keys

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

func TestDigest(t *testing.T) {
	// RFC 4231, test case 2.
	const want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
	if got := NewHasher([]byte("Jefe")).Digest("what do ya want for nothing?"); got.Hex() != want {
		t.Errorf("digest %s, want %s", got.Hex(), want)
	}
	for _, secret := range []string{"", "a", strings.Repeat("a", maxSecret), strings.Repeat("b", 3*maxSecret+1)} {
		for _, pepper := range []string{"", "pepper", strings.Repeat("p", 100)} {
			mac := hmac.New(sha256.New, []byte(pepper))
			mac.Write([]byte(secret))
			h := NewHasher([]byte(pepper))
			for range 3 { // the state is used again
				if got := h.Digest(secret); !bytes.Equal(got[:], mac.Sum(nil)) {
					t.Errorf("digest of %d bytes under %d bytes of pepper is wrong", len(secret), len(pepper))
				}
			}
		}
	}
}

func TestHasherKeepsItsOwnPepper(t *testing.T) {
	pepper := []byte("pepper")
	h := NewHasher(pepper)
	clear(pepper)
	if h.Digest("a") != NewHasher([]byte("pepper")).Digest("a") {
		t.Error("the caller can change the pepper of a Hasher")
	}
}

func TestDigestForgetsTheSecret(t *testing.T) {
	s := &hashState{}
	s.sum(hmac.New(sha256.New, nil), strings.Repeat("s", 2*maxSecret))
	if s.in != [maxSecret]byte{} {
		t.Error("the secret stays in the pool")
	}
}

func TestDigestConcurrently(t *testing.T) {
	h := NewHasher([]byte("pepper"))
	var wg sync.WaitGroup
	for i := range 8 {
		secret := strings.Repeat("s", 20+i)
		want := NewHasher([]byte("pepper")).Digest(secret)
		wg.Go(func() {
			for range 500 {
				if h.Digest(secret) != want {
					t.Errorf("two digests were mixed")
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkDigest(b *testing.B) {
	h, secret := NewHasher([]byte("pepper")), NewSecret("pb_")
	b.ReportAllocs()
	for b.Loop() {
		h.Digest(secret)
	}
}

func TestHandle(t *testing.T) {
	h, secret := NewHasher([]byte("pepper")), NewSecret("pb_")
	got := h.Handle(secret)
	if len(got) != 14 || IDProblem(got) != "" || !only(got[4:], isBase62) {
		t.Errorf("Handle = %q", got)
	}
	if got != NewHasher([]byte("pepper")).Handle(secret) {
		t.Error("the same pepper gives another handle")
	}
	if got == NewHasher([]byte("other")).Handle(secret) || got == h.Handle(secret+"x") {
		t.Error("another pepper or secret gives the same handle")
	}
	if one, other := NewHasher(nil), NewHasher(nil); one.Handle(secret) == other.Handle(secret) {
		t.Error("without a pepper everybody could compute the handle")
	}
	// The handle must not be a window on the stored hash.
	if d := h.Digest(secret); handleOf(d) == got {
		t.Error("the handle is made of the digest")
	}
}

func handleOf(d Digest) string {
	n := uint64(0)
	for _, b := range d[:8] {
		n = n<<8 | uint64(b)
	}
	out := []byte("key_0000000000")
	for i := 13; i >= 4; i-- {
		out[i] = Base62[n%62]
		n /= 62
	}
	return string(out)
}

func TestParseHash(t *testing.T) {
	good := strings.Repeat("0a", 32)
	if algorithm, d, err := ParseHash("hmac-sha256:" + strings.ToUpper(good)); err != nil || algorithm != "hmac-sha256" || d.Hex() != good {
		t.Errorf("parseHash = %v, %v, %v", algorithm, d, err)
	}
	for _, in := range []string{"", good, "hmac-sha256:", "md5:" + good, "hmac-sha256:" + good[1:], "hmac-sha256:" + good + "0", "hmac-sha256:" + good[1:] + "g", "hmac-sha256:" + strings.Repeat("0", 64)} {
		if _, _, err := ParseHash(in); err == nil || len(in) > 20 && strings.Contains(err.Error(), in) {
			t.Errorf("parseHash(%q): %v", in, err)
		}
	}
}

func TestOlderMethods(t *testing.T) {
	secret := NewSecret("pb_")
	pepper := []byte("older")
	h := NewHasher([]byte("new"), Method{Pepper: pepper}, Method{Algorithm: AlgorithmSHA256}, Method{})
	pepper[0] = 'x' // the caller's copy
	if h.Older() != 3 || NewHasher(nil).Older() != 0 {
		t.Error(h.Older())
	}
	for range 2 { // a state is reused
		for i, want := range []Digest{NewHasher([]byte("older")).Digest(secret), sha256.Sum256([]byte(secret)), NewHasher(nil).Digest(secret)} {
			if got := h.OlderDigest(i, secret); got != want {
				t.Errorf("method %d gives another digest", i)
			}
		}
		if h.Digest(secret) != NewHasher([]byte("new")).Digest(secret) {
			t.Error("older methods change the digest")
		}
	}
	m := Method{Pepper: []byte("secret")}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("a", "v", m)
	text, _ := m.MarshalText()
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s %x", m, m, &m, m, m), log.String(), string(text), m.String()} {
		if strings.Contains(s, "secret") || strings.Contains(s, hex.EncodeToString(m.Pepper)) || !strings.Contains(s, Redacted) {
			t.Error(s)
		}
	}
}

func TestParseHashOfSHA256(t *testing.T) {
	good := strings.Repeat("0a", 32)
	if algorithm, d, err := ParseHash("sha256:" + good); err != nil || algorithm != AlgorithmSHA256 || d.Hex() != good {
		t.Errorf("parseHash = %v, %v, %v", algorithm, d, err)
	}
	k := sample(func(k *Key) { k.Algorithm = "md5" })
	if err := k.Validate(); err == nil || !strings.Contains(err.Error(), "algorithm") {
		t.Errorf("md5: %v", err)
	}
}

func TestPeppered(t *testing.T) {
	if NewHasher(nil).Peppered() || !NewHasher([]byte("p")).Peppered() {
		t.Error("a hasher does not know whether it has a pepper")
	}
}
