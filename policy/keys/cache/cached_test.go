package cache

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"pgregory.net/rapid"
)

const maxName = 128 // bytes, of a name or a team

// likeNoOther returns a key by its number: its texts have many lengths, and it shares its profile
// with some others.
func likeNoOther(i int) *keys.Key {
	return keystest.Sample(func(k *keys.Key) {
		k.ID, k.Digest = fmt.Sprintf("key_%d", i+1000), digestOf(i)
		k.Name, k.Team, k.LimitID = strings.Repeat("n", 1+i%maxName), strings.Repeat("t", i*7%maxName), k.ID
		if i%3 == 0 {
			k.LimitID = fmt.Sprintf("key_line%d", i)
		}
		k.Plan, k.AnchorDay = fmt.Sprintf("plan%d", i%97), 1+i%28
		k.CreatedAt, k.ExpiresAt = time.Unix(int64(i)*60, 0), time.Unix(int64(i), 0)
	})
}

func checkGrant(t interface{ Errorf(string, ...any) }, g keys.Grant, i int) {
	k := likeNoOther(i)
	if g.ID() != k.ID || g.Name() != k.Name || g.Team() != k.Team || g.LimitID() != k.LimitID || g.Plan != k.Plan ||
		int(g.AnchorDay) != k.AnchorDay || !g.End().Equal(k.ExpiresAt) || int(g.CreatedMinute) != max(i, 1) {
		t.Errorf("key %d has the grant %+v of %q", i, g, g.Texts)
	}
}

// What is kept is found as it was put, whatever comes and goes around it, and moves from block to
// block.
func TestCachedGrants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := New(nil, Options{Keys: 3_000, TTL: time.Hour})
		held := map[int]keys.Grant{} // by those who decide
		steps := 3_000
		if keystest.RaceDetector {
			steps /= 4 // it is one goroutine
		}
		for range rapid.IntRange(1, steps).Draw(t, "steps") {
			i := rapid.IntRange(0, 1_500).Draw(t, "key")
			k := likeNoOther(i)
			if rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				c.forget(k.Digest)
				continue
			}
			f := c.fence(k.Digest)
			held[i], _ = c.keep(f, f.current(), k.Digest, store.LookupResult{Key: k, RecordHash: uint64(i + 1)}, 0, 0)
			e, _ := c.grants.peek(k.Digest)
			if g, err := c.Find(k.Digest); err != nil || g != held[i] || e.recordHash != uint64(i+1) {
				t.Fatalf("%+v, %v", g, err)
			}
		}
		for i, g := range held {
			checkGrant(t, g, i)
			if found, err := c.Find(digestOf(i)); err == nil {
				checkGrant(t, found, i)
				if e, _ := c.grants.peek(digestOf(i)); e.recordHash != uint64(i+1) {
					t.Errorf("key %d: sum %d", i, e.recordHash)
				}
			}
		}
	})
}

// Who looks meets each key's own grant at any moment: while others are put, forgotten and dropped
// for room.
func TestCachedGrantsUnderContention(t *testing.T) {
	const all, most, readers, changes = 1_500, 1_000, 3, 10_000
	c := New(nil, Options{Keys: most, TTL: time.Hour})
	var work, writers sync.WaitGroup
	done := make(chan struct{})
	for r := range readers {
		work.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(r)))
			for {
				select {
				case <-done:
					return
				default:
				}
				i := random.IntN(all)
				if g, err := c.Find(digestOf(i)); err == nil {
					checkGrant(t, g, i)
				}
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(w)))
			for range changes / 2 {
				k := likeNoOther(random.IntN(all))
				if random.IntN(4) == 0 {
					c.forget(k.Digest)
					continue
				}
				f := c.fence(k.Digest)
				c.keep(f, f.current(), k.Digest, store.LookupResult{Key: k, RecordHash: 1}, 0, 0)
			}
		})
	}
	writers.Wait()
	close(done)
	work.Wait()
	if s := c.Stats(); s.Keys > most || s.Keys < most/2 || s.Hits == 0 {
		t.Errorf("%+v", s)
	}
}

// The use of a key that was noted stays noted when its record is read anew.
func TestNotedIsCarriedOver(t *testing.T) {
	c := New(nil, Options{TTL: time.Hour})
	k := likeNoOther(1)
	f := c.fence(k.Digest)
	first, _ := c.keep(f, 0, k.Digest, store.LookupResult{Key: k, RecordHash: 1}, 0, 0)
	first.Noted.Store(7)
	k.Plan = "other"
	if second, _ := c.keep(f, 0, k.Digest, store.LookupResult{Key: k, RecordHash: 2}, 0, 0); second.Noted.Load() != 7 || second.Plan != "other" || first.Plan == "other" {
		t.Errorf("%+v, after %+v", second, first)
	}
}
