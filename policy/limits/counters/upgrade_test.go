package counters

import (
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/policy/limits"
)

// earlier returns a Store as the version before windows were remembered, or slots taken, which runs
// beside this one in an upgrade.
func (b *backend) earlier(t *testing.T, before string) *Store {
	t.Helper()
	source, err := os.ReadFile("testdata/spend-before-" + before + ".lua")
	if err != nil {
		t.Fatal(err)
	}
	sha, err := b.client.ScriptLoad(t.Context(), string(source)).Result()
	if err != nil {
		t.Fatal(err)
	}
	s := b.store(t)
	s.sha = sha
	return s
}

// While both versions run, and no clock goes back nor anchor changes, they are as one: each reads
// what the other wrote.
func TestVersionsShareCounters(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		stores := []*Store{b.earlier(t, "jumps"), b.earlier(t, "slots"), b.store(t)}
		rapid.Check(t, func(rt *rapid.T) {
			b.empty(rt)
			m := newModel()
			now := time.Date(2027, 12, 30, 23, 59, 58, 50_000_000, time.UTC)
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				now = now.Add(max(drawMove(rt), 0))
				b.at(t, now)
				sp := drawSpend(rt)
				for i := range sp.Windows {
					if sp.Windows[i].Name == "month" {
						sp.Windows[i].Anchor = 0
					}
				}
				m.verify(rt, sp, mustSpend(rt, stores[rapid.IntRange(0, 2).Draw(rt, "version")], sp))
			}
		})
	})
}

// A server of the version before slots counts in the same windows and takes none.
func TestSlotsBesideTheVersionBefore(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		b.at(t, clock(t, "2031-05-05T10:00:00.05Z"))
		before, after := b.earlier(t, "slots"), b.store(t)
		plain := takes("", 1)
		for i, step := range []struct {
			store         *Store
			spend         *limits.Spend
			allowed, full bool
			spent         int64
		}{
			{after, takes("a", 1), true, false, 1},
			{before, plain, true, false, 2},
			{after, takes("b", 1), false, true, 2},
			{before, plain, true, false, 3},
			{after, plain, true, false, 4},
		} {
			res := mustSpend(t, step.store, step.spend)
			if res.Allowed != step.allowed || res.Full != step.full || res.States[0].Spent != step.spent || inUse(t, b, "k") != 1 {
				t.Errorf("%d: %+v, %d slots; want %+v", i, res, inUse(t, b, "k"), step)
			}
		}
	})
}

// The clock jumps and returns while both versions run. What the earlier one counted there is
// counted once by this one, which so unlocks the key for both: at most one limit more is allowed,
// as between servers of this version alone.
func TestJumpWhileVersionsShare(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		before, after := b.earlier(t, "jumps"), b.store(t)
		s := &limits.Spend{ID: "a", Windows: one(10, limits.Minute), Cost: 4}
		for _, step := range []struct {
			at      string
			store   *Store
			allowed bool
			spent   int64
		}{
			{"2026-01-15T12:00:00.05Z", after, true, 4},
			{"2026-01-15T12:00:00.05Z", before, true, 8},
			{"2026-12-15T12:00:00.05Z", before, true, 4},
			{"2026-12-15T12:00:00.05Z", after, true, 8},
			{"2026-01-15T12:00:10.05Z", after, false, 8}, // what the earlier version left is not known
			{"2026-01-15T12:00:10.05Z", before, false, 8},
			{"2026-01-15T12:01:00.05Z", before, true, 4},
			{"2026-01-15T12:01:00.05Z", after, true, 8},
			{"2026-12-16T12:00:00.05Z", after, true, 4},
			{"2026-01-15T12:01:10.05Z", after, false, 12},
			{"2026-01-15T12:02:00.05Z", before, true, 4},
		} {
			b.at(t, clock(t, step.at))
			res := mustSpend(t, step.store, s)
			if res.Allowed != step.allowed || res.States[0].Spent != step.spent {
				t.Fatalf("%s: %+v, want %v and %d", step.at, res, step.allowed, step.spent)
			}
		}
	})
}
