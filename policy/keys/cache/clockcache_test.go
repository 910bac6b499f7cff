package cache

import (
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"tollgate/policy/keys"
)

func newTestClock(most int) *clockCache[int, nothingShared] {
	return newClockCache(most, moveValue[int])
}

func put(c *clockCache[int, nothingShared], key keys.Digest, value int) {
	c.put(key, func(v *int, _ *nothingShared) { *v = value })
}

func get(c *clockCache[int, nothingShared], key keys.Digest) *int {
	v, _ := c.get(key)
	return v
}

func peek(c *clockCache[int, nothingShared], key keys.Digest) *int {
	v, _ := c.peek(key)
	return v
}

// A clock with room does what a map does.
func TestClockIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, model := newTestClock(1_000), map[keys.Digest]int{}
		hits := uint64(0)
		for i := range rapid.IntRange(1, 400).Draw(t, "steps") {
			key := digestOf(rapid.IntRange(0, 150).Draw(t, "key"))
			switch rapid.SampledFrom([]string{"put", "put", "get", "peek", "delete"}).Draw(t, "step") {
			case "put":
				put(c, key, i)
				model[key] = i
			case "delete":
				c.delete(key)
				delete(model, key)
			case "get":
				if get(c, key) != nil {
					hits++
				}
			}
			want, ok := model[key]
			if got := peek(c, key); (got != nil) != ok || ok && *got != want {
				t.Fatalf("%v: %v, want %v, %v", key, got, want, ok)
			}
		}
		census(t, c)
		for key, want := range model {
			if got := peek(c, key); got == nil || *got != want {
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
	const most, hot, scan = 1_000, 50, 6_000
	c := newTestClock(most)
	for i := range hot {
		put(c, digestOf(i), i)
	}
	for i := range scan {
		key := digestOf(hot + i)
		put(c, key, 0)
		if peek(c, key) == nil {
			t.Fatal("what was put is not there")
		}
		for h := range hot {
			if got := get(c, digestOf(h)); got == nil || *got != h {
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
		c := newTestClock(most)
		for i := range 200 {
			put(c, digestOf(i), i)
			if got := get(c, digestOf(i)); got == nil || *got != i {
				t.Fatalf("most %d: what was put is not there", most)
			}
			if s := c.size.Load(); s != int64(min(i+1, most)) {
				t.Fatalf("most %d: %d values after %d", most, s, i+1)
			}
		}
	}
}

// Readers meet replacements, deletions and drops at any moment, and never see another key's value,
// or nothing where a value is being replaced. What was deleted is not found.
func TestClockUnderContention(t *testing.T) {
	const keys, readers, rounds = 500, 4, 100
	c := newTestClock(keys)
	for i := range keys {
		put(c, digestOf(i), i)
	}
	var done atomic.Bool
	var work sync.WaitGroup
	for range readers {
		work.Go(func() {
			for i := 0; !done.Load(); i = (i + 7) % keys {
				got := get(c, digestOf(i))
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
				if get(c, digestOf(i)) != nil {
					t.Fatal("a deleted value was found")
				}
			}
			put(c, digestOf(i), i+round*keys)
		}
	}
	done.Store(true)
	work.Wait()
	if s := c.stats(); s.size != keys || s.dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// While a clock cache grows, what was in it before is found all the time.
func TestClockGrowsUnderReaders(t *testing.T) {
	const keys, first = 40_000, 100
	c := newTestClock(keys)
	for i := range first {
		put(c, digestOf(i), i)
	}
	var done atomic.Bool
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for i := 0; !done.Load(); i = (i + 7) % first {
				if got := get(c, digestOf(i)); got == nil || *got != i {
					t.Errorf("key %d: found %v", i, got)
					return
				}
			}
		})
	}
	for i := first; i < keys; i++ {
		put(c, digestOf(i), i)
	}
	done.Store(true)
	work.Wait()
	census(t, c)
}

// Whatever several do at the same time, each value is in its chain once, and the counts are right.
func TestClockAccounts(t *testing.T) {
	for _, most := range []int{1, 3, 64, 1_000, 5_000} {
		c := newTestClock(most)
		var work sync.WaitGroup
		for w := range 4 {
			work.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 1))
				for range 10_000 {
					i := r.IntN(1 + most*3/2)
					if r.IntN(3) == 0 {
						i %= 5
					}
					switch r.IntN(4) {
					case 0, 1:
						put(c, digestOf(i), i)
					case 2:
						c.delete(digestOf(i))
					default:
						if v := get(c, digestOf(i)); v != nil && *v != i {
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

// Values that come and go leave no memory behind, whatever stays: blocks that are half empty are
// emptied.
func TestClockFreesBlocks(t *testing.T) {
	const values, stays = 20_000, 1_000
	c := newTestClock(values + stays)
	for i := range stays { // each among many others, so that it would keep a block
		put(c, digestOf(i), i)
		for j := range values / stays {
			put(c, digestOf(stays+i*(values/stays)+j), 0)
		}
	}
	for i := range values {
		c.delete(digestOf(stays + i))
	}
	census(t, c)
	for i := range stays {
		if got := peek(c, digestOf(i)); got == nil || *got != i {
			t.Fatalf("value %d is %v after others went", i, got)
		}
	}
}

// census compares what is in the chains with what is counted, and with the blocks.
func census(t rapid.TB, c *clockCache[int, nothingShared]) {
	t.Helper()
	total, seen := 0, map[keys.Digest]bool{}
	for i := range c.shards {
		s, n := &c.shards[i], 0
		heads := *s.heads.Load()
		lives := map[*block[int, nothingShared]]int{}
		for j := range heads {
			for b, d := s.slot(heads[j].Load()); d != nil; b, d = s.slot(d.next.Load()) {
				if h := c.hash(&d.key); c.shard(h) != s || chain(heads, h) != &heads[j] || seen[d.key] {
					t.Errorf("key %d is in a wrong chain, or there twice", d.value)
				}
				seen[d.key] = true
				lives[b]++
				n++
			}
		}
		if n != s.count {
			t.Errorf("shard %d: %d values, counted %d", i, n, s.count)
		}
		total += n
		blocks, used := *s.blocks.Load(), 0
		for number := range blocks {
			b := blocks[number].Load()
			if b == nil {
				continue
			}
			used++
			if bits.OnesCount64(b.live) != lives[b] || uint32(number) != s.current && b.sparse() {
				t.Errorf("shard %d, block %d: %d values, counted %b", i, number, lives[b], b.live)
			}
		}
		if used+len(s.free) != len(blocks) || len(s.sparse) != 0 {
			t.Errorf("shard %d: %d blocks, %d numbers are free of %d, %d blocks to empty", i, used, len(s.free), len(blocks), len(s.sparse))
		}
	}
	if size := c.size.Load(); int64(total) != size || size > c.most {
		t.Errorf("%d values, counted %d, at most %d", total, size, c.most)
	}
}
