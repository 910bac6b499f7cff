package counters

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"tollgate/policy/limits"
)

// slotsModel is the plain truth about one limit id: which slots are held, until when in Unix ms,
// and what was spent.
type slotsModel struct {
	ends  map[string]int64
	spent int64
}

func (m *slotsModel) drop(which func(slot string, end int64) bool) (n int) {
	for slot, end := range m.ends {
		if which(slot, end) {
			delete(m.ends, slot)
			n++
		}
	}
	return n
}

// take is a request of cost 1 that wants a slot, by the clock of the store.
func (m *slotsModel) take(s *limits.Slot, limit, now int64) (allowed, full bool) {
	delete(m.ends, s.Earlier)
	end := now + s.Hold.Milliseconds()
	request, _, named := strings.Cut(s.ID, ":")
	if int64(len(m.ends)) >= s.Places {
		m.drop(func(_ string, at int64) bool { return at <= now })
		for slot, at := range m.ends {
			m.ends[slot] = min(at, end) // no clock that was right held it for longer
		}
	}
	if named && int64(len(m.ends)) >= s.Places {
		m.drop(func(slot string, _ int64) bool { return strings.HasPrefix(slot, request+":") })
	}
	if m.spent+1 > limit {
		return false, false
	}
	if int64(len(m.ends)) >= s.Places {
		return false, true
	}
	m.ends[s.ID] = end
	m.spent++
	return true, false
}

// hold is a slot that is held on, or with 0 released. It reports whether that changed anything.
func (m *slotsModel) hold(s *limits.Slot, now int64) (found bool) {
	end, held := m.ends[s.ID]
	if !held {
		return false
	}
	if s.Hold == 0 {
		delete(m.ends, s.ID)
		return true
	}
	m.ends[s.ID] = now + s.Hold.Milliseconds()
	return end != m.ends[s.ID]
}

// slotsRun is one run of random steps against a store and the model.
type slotsRun struct {
	*rapid.T
	b       *backend
	model   slotsModel
	names   []string          // of all slots that were ever asked for
	by      map[string]string // the slot of each request's last try
	windows []limits.Window
}

// draw makes the next operation.
func (r *slotsRun) draw() *operation {
	c := &operation{id: "k", layout: newLayout(nil), holds: true}
	holds := []time.Duration{time.Second, time.Minute, time.Minute, time.Hour}
	if len(r.names) > 0 && rapid.IntRange(0, 2).Draw(r.T, "hold") == 0 {
		c.slot.ID = rapid.SampledFrom(r.names).Draw(r.T, "slot")
		if rapid.Bool().Draw(r.T, "on") {
			c.slot.Hold = rapid.SampledFrom(holds).Draw(r.T, "for")
		}
		return c
	}
	c.holds, c.layout, c.cost = false, newLayout(r.windows), 1
	c.slot = limits.Slot{
		ID: fmt.Sprint("s", len(r.names)), Places: rapid.SampledFrom([]int64{1, 2, 2, 3}).Draw(r.T, "places"),
		Hold: rapid.SampledFrom(holds).Draw(r.T, "held for"),
	}
	if request := rapid.SampledFrom([]string{"", "", "r1", "r2", "r11"}).Draw(r.T, "request"); request != "" {
		c.slot.ID = request + ":" + c.slot.ID
		if rapid.Bool().Draw(r.T, "known") { // else the earlier try was on another replica
			c.slot.Earlier = r.by[request]
		}
		r.by[request] = c.slot.ID
	}
	r.names = append(r.names, c.slot.ID)
	return c
}

// verify compares an answer with the model, and the store with it.
func (r *slotsRun) verify(c *operation) {
	if c.holds {
		if found := r.model.hold(&c.slot, c.now); c.found != found {
			r.Fatalf("%+v: found is %v, want %v", c.slot, c.found, found)
		}
	} else {
		allowed, full := r.model.take(&c.slot, r.windows[0].Limit, c.now)
		if c.allowed != allowed || c.full != full || c.counts[0].Spent != r.model.spent || c.inUse != int64(len(r.model.ends)) {
			r.Fatalf("%+v:\n got %v, full %v, %d spent, %d in use\nwant %v, %v, %d, %d",
				c.slot, c.allowed, c.full, c.counts[0].Spent, c.inUse, allowed, full, r.model.spent, len(r.model.ends))
		}
		unexpired := 0
		for _, end := range r.model.ends {
			if end > c.now {
				unexpired++
			}
		}
		if allowed && int64(unexpired) > c.slot.Places {
			r.Fatalf("%d under way, of %d", unexpired, c.slot.Places)
		}
		if full && int64(unexpired) < c.slot.Places {
			r.Fatalf("refused with %d under way, of %d", unexpired, c.slot.Places)
		}
		if _, held := r.model.ends[c.slot.Earlier]; held {
			r.Fatalf("the slot of an earlier try is held")
		}
	}
	stored, err := r.b.client.ZRangeArgsWithScores(context.Background(), redis.ZRangeArgs{Key: slotsKey("k"), Start: 0, Stop: -1}).Result()
	if err != nil {
		r.Fatal(err)
	}
	got := map[string]int64{}
	for _, z := range stored {
		got[fmt.Sprint(z.Member)] = int64(z.Score)
	}
	if fmt.Sprint(got) != fmt.Sprint(r.model.ends) { // both sorted
		r.Fatalf("after %+v at %d:\n got %v\nwant %v", c.slot, c.now, got, r.model.ends)
	}
}

// Whatever is taken, released, held on and checked again, by any clock, there are never more slots
// of a limit id than places that have not ended; none is refused while a place is free; and who is
// refused is charged nothing.
func TestSlotsAreTheModel(t *testing.T) {
	eachBackend(t, func(t *testing.T, b *backend) {
		ctx := context.Background()
		rapid.Check(t, func(rt *rapid.T) {
			if err := b.client.FlushAll(ctx).Err(); err != nil {
				rt.Fatal(err)
			}
			r := &slotsRun{T: rt, b: b, by: map[string]string{}, windows: []limits.Window{{
				Name: "q", Per: limits.Month, Limit: rapid.SampledFrom([]int64{5, 1000, 1000}).Draw(rt, "limit")}}}
			r.model.ends = map[string]int64{}
			stores := []*Store{NewStore(b.client, b.now), NewStore(b.client, b.now)}
			now := time.Date(2027, 12, 15, 12, 0, 0, 50_000_000, time.UTC)
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				now = now.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, 0, 0, time.Second, 30 * time.Second, time.Minute, time.Hour,
					-time.Second, -time.Minute, -3 * time.Hour, 3 * time.Hour}).Draw(rt, "move"))
				b.at(t, now)
				c := r.draw()
				stores[rapid.IntRange(0, 1).Draw(rt, "replica")].send(ctx, []*operation{c})
				if c.err != nil {
					rt.Fatal(c.err)
				}
				r.verify(c)
			}
		})
	})
}
