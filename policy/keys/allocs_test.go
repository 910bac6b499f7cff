package keys_test

import (
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

func TestDigestDoesNotAllocate(t *testing.T) {
	h, secret := keys.NewHasher([]byte("pepper")), keys.NewSecret("pb_")
	if n := testing.AllocsPerRun(1000, func() { h.Digest(secret) }); n != 0 && !keystest.RaceDetector {
		t.Errorf("Digest allocates %v times", n)
	}
}

func TestOlderDigestDoesNotAllocate(t *testing.T) {
	h, secret := keys.NewHasher([]byte("new"), keys.Method{Pepper: []byte("older")}, keys.Method{Algorithm: keys.AlgorithmSHA256}), keys.NewSecret("pb_")
	if n := testing.AllocsPerRun(100, func() { h.OlderDigest(1, secret) }); n != 0 && !keystest.RaceDetector {
		t.Errorf("OlderDigest allocates %v times", n)
	}
}
