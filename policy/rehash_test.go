package policy_test

import (
	"errors"
	"testing"

	"tollgate/policy"
	"tollgate/policy/keys"
)

// A key that is stored under an older pepper is asked for by each method in turn, and the host is
// told what to store it under.
func TestOlderMethods(t *testing.T) {
	set := shopSet(t)
	hasher := keys.NewHasher([]byte("pepper"), keys.Method{Pepper: []byte("older")}, keys.Method{Algorithm: keys.AlgorithmSHA256})
	digests := []keys.Digest{
		hasher.Digest(secret("sk_live_")), hasher.OlderDigest(0, secret("sk_live_")), hasher.OlderDigest(1, secret("sk_live_")),
	}
	away := errors.New("away")
	for _, test := range []struct {
		name   string
		stored int // the method that the store knows the secret by; 3 = none
		wrong  func(*world)
		err    error // of the first older method
		reason policy.Reason
		rehash bool
	}{
		{"the current one", 0, nil, nil, policy.Allowed, false},
		{"an older one", 1, nil, nil, policy.Allowed, true},
		{"the oldest", 2, nil, nil, policy.Allowed, true},
		{"none", 3, nil, nil, policy.UnknownKey, false},
		{"denied", 1, func(w *world) { w.key.Scopes = nil }, nil, policy.ScopeDenied, false},
		{"of another API", 1, func(w *world) { w.key.API = "other" }, nil, policy.UnknownKey, false},
		{"store away meanwhile", 2, nil, away, policy.Undecided, false},
		{"corrupt", 2, nil, &keys.CorruptError{}, policy.CorruptKey, false},
	} {
		w := goodWorld()
		w.key.Plan = "unlimited"
		if test.wrong != nil {
			test.wrong(w)
		}
		var check policy.Check
		wait := policy.NewDecider(hasher, w.local, clock).Begin(&check, set, &w.request)
		asked := 0
		for wait == policy.WaitKey {
			if check.Digest() != digests[asked] {
				t.Fatalf("%s: question %d has another digest", test.name, asked)
			}
			if from := check.Caller(); from.More != (asked < 2) || from.API != "shop" || from.Address != w.request.Peer {
				t.Errorf("%s: question %d is for %+v", test.name, asked, from)
			}
			switch {
			case asked == test.stored:
				wait = check.Found(*keys.NewGrant(&w.key), nil)
			case asked == 1 && test.err != nil:
				wait = check.Found(keys.Grant{}, test.err)
			default:
				wait = check.Found(keys.Grant{}, keys.ErrUnknown)
			}
			asked++
		}
		if d := check.Decision(); d.Reason != test.reason {
			t.Errorf("%s: %s", test.name, d.Reason)
		}
		id, from, to, ok := check.Rehash()
		if ok != test.rehash || ok && (id != "key_0001" || from != digests[test.stored] || to != digests[0]) {
			t.Errorf("%s: Rehash of %q: %v", test.name, id, ok)
		}
	}
}
