package keys

import (
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// A clock with room does what a map does.
func TestClockIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, model := newClock[int](1_000), map[Digest]int{}
		hits := uint64(0)
		for i := range rapid.IntRange(1, 400).Draw(t, "steps") {
			key := digestOf(rapid.IntRange(0, 150).Draw(t, "key"))
			switch rapid.SampledFrom([]string{"put", "put", "get", "peek", "delete"}).Draw(t, "step") {
			case "put":
				c.put(&dial[int]{key: key, value: i})
				model[key] = i
			case "delete":
				c.delete(key)
				delete(model, key)
			case "get":
				if c.get(key) != nil {
					hits++
				}
			}
			want, ok := model[key]
			if got := c.peek(key); (got != nil) != ok || ok && *got != want {
				t.Fatalf("%v: %v, want %v, %v", key, got, want, ok)
			}
		}
		for key, want := range model {
			if got := c.peek(key); got == nil || *got != want {
				t.Fatalf("at the end: %v, want %v", got, want)
			}
		}
		if s := c.stats(); s.size != len(model) || s.hits != hits || s.dropped != 0 {
			t.Fatalf("%+v, want size %d, hits %d", s, len(model), hits)
		}
	})
}

// What is read stays while many times as much comes and goes, and there is never more than allowed.
func TestClockDropsWhatNobodyReads(t *testing.T) {
	const most, hot, scan = 1_000, 50, 20_000
	c := newClock[int](most)
	for i := range hot {
		c.put(&dial[int]{key: digestOf(i), value: i})
	}
	for i := range scan {
		put := digestOf(hot + i)
		c.put(&dial[int]{key: put})
		if c.peek(put) == nil {
			t.Fatal("what was put is not there")
		}
		for h := range hot {
			if got := c.get(digestOf(h)); got == nil || *got != h {
				t.Fatalf("after %d others a value that is read is gone", i)
			}
		}
		if s := c.size.Load(); s > most {
			t.Fatalf("%d values, want at most %d", s, most)
		}
	}
	if s := c.stats(); s.size != most || s.dropped != hot+scan-most {
		t.Errorf("%+v", s)
	}
}

// Also where there is room for less than there are shards, and when everything was just read.
func TestSmallClock(t *testing.T) {
	for most := 1; most <= 5; most++ {
		c := newClock[int](most)
		for i := range 200 {
			c.put(&dial[int]{key: digestOf(i), value: i})
			if got := c.get(digestOf(i)); got == nil || *got != i {
				t.Fatalf("most %d: what was put is not there", most)
			}
			if s := c.size.Load(); s != int64(min(i+1, most)) {
				t.Fatalf("most %d: %d values after %d", most, s, i+1)
			}
		}
	}
}

// Readers meet replacements, deletions and drops at any moment, and never see another key's value, or nothing where a
// value is being replaced. What was deleted is not found.
func TestClockUnderContention(t *testing.T) {
	const keys, readers, rounds = 500, 4, 400
	c := newClock[int](keys)
	for i := range keys {
		c.put(&dial[int]{key: digestOf(i), value: i})
	}
	var done atomic.Bool
	var work sync.WaitGroup
	for range readers {
		work.Go(func() {
			for i := 0; !done.Load(); i = (i + 7) % keys {
				got := c.get(digestOf(i))
				if got != nil && *got%keys != i || got == nil && i%2 == 0 {
					t.Errorf("key %d: found %v", i, got)
					return
				}
			}
		})
	}
	for round := range rounds {
		for i := range keys {
			if i%2 == 1 {
				c.delete(digestOf(i))
				if c.get(digestOf(i)) != nil {
					t.Fatal("a deleted value was found")
				}
			}
			c.put(&dial[int]{key: digestOf(i), value: i + round*keys})
		}
	}
	done.Store(true)
	work.Wait()
	if s := c.stats(); s.size != keys || s.dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// While a clock grows and drops, readers may miss values, but find no wrong ones, and end.
func TestClockGrowsUnderReaders(t *testing.T) {
	const keys = 20_000
	c := newClock[int](keys / 2)
	var done atomic.Bool
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for i := 0; !done.Load(); i = (i + 7) % keys {
				if got := c.get(digestOf(i)); got != nil && *got != i {
					t.Errorf("key %d has the value of %d", i, *got)
					return
				}
			}
		})
	}
	for i := range keys {
		c.put(&dial[int]{key: digestOf(i), value: i})
	}
	done.Store(true)
	work.Wait()
	if s := c.stats(); s.size != keys/2 || s.dropped != keys/2 {
		t.Errorf("%+v", s)
	}
}
