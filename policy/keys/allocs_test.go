package keys

import (
	"testing"

	"tollgate/policy/keys/keystest"
)

func TestDigestDoesNotAllocate(t *testing.T) {
	h, secret := NewHasher([]byte("pepper")), NewSecret("pb_")
	if n := testing.AllocsPerRun(1000, func() { h.Digest(secret) }); n != 0 && !keystest.RaceDetector {
		t.Errorf("Digest allocates %v times", n)
	}
}

func TestOlderDigestDoesNotAllocate(t *testing.T) {
	h, secret := NewHasher([]byte("new"), Method{Pepper: []byte("older")}, Method{Algorithm: AlgorithmSHA256}), NewSecret("pb_")
	if n := testing.AllocsPerRun(100, func() { h.OlderDigest(1, secret) }); n != 0 && !keystest.RaceDetector {
		t.Errorf("OlderDigest allocates %v times", n)
	}
}
