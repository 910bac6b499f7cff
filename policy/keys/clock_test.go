package keys

import (
	"math/rand/v2"
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

// While a clock grows, what was in it before is found all the time.
func TestClockGrowsUnderReaders(t *testing.T) {
	const keys, first = 200_000, 100
	c := newClock[int](keys)
	for i := range first {
		c.put(&dial[int]{key: digestOf(i), value: i})
	}
	var done atomic.Bool
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for i := 0; !done.Load(); i = (i + 7) % first {
				if got := c.get(digestOf(i)); got == nil || *got != i {
					t.Errorf("key %d: found %v", i, got)
					return
				}
			}
		})
	}
	for i := first; i < keys; i++ {
		c.put(&dial[int]{key: digestOf(i), value: i})
	}
	done.Store(true)
	work.Wait()
	census(t, c)
}

// Whatever several do at the same time, each value is in its chain once, and the counts are right.
func TestClockAccounts(t *testing.T) {
	for _, most := range []int{1, 3, 64, 1_000, 5_000} {
		c := newClock[int](most)
		var work sync.WaitGroup
		for w := range 4 {
			work.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 1))
				for range 30_000 {
					i := r.IntN(1 + most*3/2)
					if r.IntN(3) == 0 {
						i %= 5
					}
					switch r.IntN(4) {
					case 0, 1:
						c.put(&dial[int]{key: digestOf(i), value: i})
					case 2:
						c.delete(digestOf(i))
					default:
						if v := c.get(digestOf(i)); v != nil && *v != i {
							t.Errorf("key %d has the value of %d", i, *v)
						}
					}
				}
			})
		}
		work.Wait()
		census(t, c)
	}
}

// census compares what is in the chains with what is counted.
func census(t *testing.T, c *clock[int]) {
	t.Helper()
	total, seen := 0, map[Digest]bool{}
	for i := range c.shards {
		s, n := &c.shards[i], 0
		heads := *s.heads.Load()
		for j := range heads {
			for d := heads[j].Load(); d != nil; d = d.next.Load() {
				if h := c.hash(&d.key); c.shard(h) != s || chain(heads, h) != &heads[j] || seen[d.key] {
					t.Errorf("key %d is in a wrong chain, or there twice", d.value)
				}
				seen[d.key] = true
				n++
			}
		}
		if n != s.count {
			t.Errorf("shard %d: %d values, counted %d", i, n, s.count)
		}
		total += n
	}
	if size := c.size.Load(); int64(total) != size || size > c.most {
		t.Errorf("%d values, counted %d, at most %d", total, size, c.most)
	}
}
