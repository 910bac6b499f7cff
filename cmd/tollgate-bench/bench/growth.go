package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"
)

// pprof reads a page of a server's profiler into w.
func (s *subject) pprof(ctx context.Context, page string, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Pprof+"/debug/pprof/"+page, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: %s", res.Status)
	}
	_, err = io.Copy(w, res.Body)
	return err
}

// profileTime is how long the CPU profile is.
const profileTime = 20 * time.Second

// profile writes a CPU profile of the leased server under the load of case b.
func (b *bench) profile(ctx context.Context) error {
	out, err := os.Create(b.Profile)
	if err != nil {
		return err
	}
	c := cases()[1]
	read := make(chan error, 1)
	go func() {
		read <- b.subjects[c.server].pprof(ctx, fmt.Sprintf("profile?seconds=%d", profileTime/time.Second), out)
	}()
	job := b.job(c.server, c.keys)
	job.Duration = profileTime + time.Second
	_, err = b.do(ctx, job)
	return errors.Join(err, <-read, out.Close())
}

// grown is the name of the server whose growth is measured.
const grown = "growth"

// growth measures how the cost of a check changes with the number of keys and of
// windows, and what a key takes of memory.
func (b *bench) growth(ctx context.Context) (list []Growth, err error) {
	many := keySet{name: "many", size: b.LargestKeys, windows: loadWindows, raise: true}
	sets := []keySet{many}
	counts := []int{1, loadWindows, len(windows())}
	for _, n := range counts {
		sets = append(sets, keySet{name: fmt.Sprintf("plan%d", n), size: 1_000, windows: n, raise: true})
	}
	b.say("%d keys for the growth", b.LargestKeys)
	for _, set := range sets {
		if err := set.write(b.file(set.name)); err != nil {
			return nil, err
		}
	}
	// As the server of the few keys: what is kept for longer than its TTL is read again.
	if err := b.startOurs(ctx, grown, sets...); err != nil {
		return nil, err
	}
	heap, filled, err := b.memory(ctx, many)
	if err != nil {
		return nil, err
	}
	byKeys, err := b.byKeys(ctx, many)
	if err != nil {
		return nil, err
	}
	// Reading keys again and the leases of busy ones take memory too.
	used, err := residentBytes(b.subjects[grown].pid())
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, n := range counts {
		steps = append(steps, b.step(n, grown, fmt.Sprintf("plan%d", n)))
	}
	byWindows, err := b.compare(ctx, cpuByWindows, steps[0], steps[1:]...)
	return slices.Concat([]Growth{heap, resident(many.size, filled, used)}, byKeys, byWindows), err
}

// byKeys measures what many keys cost. The few keys are asked about on a server that holds few, so
// that what holding many costs is in it; and then what that is without those that come so rarely
// that the store is asked about them nearly each time.
func (b *bench) byKeys(ctx context.Context, many keySet) ([]Growth, error) {
	one, held := b.step(1, leased, known), b.step(many.size, grown, many.name)
	one.job.Keys, held.job.Keys = 1, b.Keys
	few := b.step(b.Keys, leased, known)
	asked, err := b.compare(ctx, cpuByKeys, one, few, b.step(many.size, grown, many.name))
	if err != nil {
		return nil, err
	}
	kept, err := b.compare(ctx, cpuByHeld, few, held)
	return append(asked, kept...), err
}

// step is what is measured of one size.
type step struct {
	turn
	size int
}

func (b *bench) step(size int, server, keys string) step {
	c := testCase{id: fmt.Sprintf("growth, %d", size), name: "growth", server: server, keys: keys, reason: "allowed"}
	return step{b.turn(c), size}
}

// memory fills the cache and compares the live heap with before. It also returns the
// RSS after that, in bytes.
func (b *bench) memory(ctx context.Context, set keySet) (heap Growth, rss float64, err error) {
	s := b.subjects[grown]
	empty, err := s.liveHeap(ctx)
	if err != nil {
		return heap, 0, err
	}
	b.say("filling the cache with %d keys", set.size)
	job := b.job(grown, set.name)
	job.Once = true
	result, err := b.do(ctx, job)
	if err != nil {
		return heap, 0, err
	}
	if result.Allowed != uint64(set.size) {
		return heap, 0, fmt.Errorf("growth: %d of %d keys were allowed; %s", result.Allowed, set.size, result.Failure)
	}
	full, err := s.liveHeap(ctx)
	if err != nil {
		return heap, 0, err
	}
	rss, err = residentBytes(s.pid())
	return Growth{What: liveHeapPerKey, Size: set.size, Value: newStat([]float64{(full - empty) / float64(set.size)}), Unit: "B"}, rss, err
}

// resident is the largest of some readings of the RSS, in bytes.
func resident(size int, readings ...float64) Growth {
	return Growth{What: residentWithKeys, Size: size, Value: newStat([]float64{slices.Max(readings) / 1e6}), Unit: "MB"}
}

// liveHeap returns the bytes that are in use after a collection.
func (s *subject) liveHeap(ctx context.Context) (float64, error) {
	// Twice: what pools hold lives for one collection longer.
	for range 2 {
		if err := s.pprof(ctx, "heap?gc=1", io.Discard); err != nil {
			return 0, err
		}
	}
	f, err := s.scrape(ctx)
	if err != nil {
		return 0, err
	}
	return f.live, nil
}

// growthRounds is how often each size is measured.
const growthRounds = 5

// compare measures each size beside the first, in turn.
func (b *bench) compare(ctx context.Context, what string, first step, others ...step) ([]Growth, error) {
	var least []float64
	list := []Growth{{What: what, Size: first.size, Unit: "µs", Ratio: 1}}
	for _, s := range others {
		b.say("%s: %d beside %d", what, s.size, first.size)
		own, base, err := b.pair(ctx, s.turn, first.turn, growthRounds)
		if err != nil {
			return nil, err
		}
		many, few := pick(own, cpuOf), pick(base, cpuOf)
		least = append(least, few...)
		list = append(list, Growth{What: what, Size: s.size, Value: newStat(many), Unit: "µs", Ratio: newStat(ratios(many, few)).Median})
	}
	list[0].Value = newStat(least)
	return list, nil
}

// The names of the figures.
const (
	liveHeapPerKey   = "live heap per cached key"
	residentWithKeys = "RSS with all keys cached"
	cpuByKeys        = "server CPU by keys"
	cpuByHeld        = "server CPU by keys held, asked about few of them"
	cpuByWindows     = "server CPU by windows"
)

// flatness is within what cost by keys is to stay, to both sides. That many keys cost
// less than one is shown and does not fail the run.
const flatness = .15

// growthLines judges what memory and cost should stay below. With judge, the ratios
// of server CPU guard.
func growthLines(list []Growth, judge bool) []Line {
	var lines []Line
	for i, g := range list {
		last := i == len(list)-1 || list[i+1].What != g.What
		switch {
		case g.What == liveHeapPerKey:
			lines = append(lines, Line{What: g.What + ", B", Limit: 400, Got: g.Value.Median})
		case g.What == residentWithKeys:
			lines = append(lines, Line{What: g.What + ", MB", Limit: 800, Got: g.Value.Median})
		case last && g.What == cpuByKeys:
			lines = append(lines, Line{What: g.What + ", ratio of the most to one", Limit: 1 + flatness, Got: g.Ratio, Guards: judge},
				Line{What: g.What + ", ratio of one to the most", Limit: 1 / (1 - flatness), Got: 1 / g.Ratio})
		case last && g.What == cpuByHeld:
			lines = append(lines, Line{What: g.What + ", ratio of the most to the least", Limit: 1 + flatness, Got: g.Ratio, Guards: judge})
		case last && g.What == cpuByWindows:
			lines = append(lines, Line{What: g.What + ", ratio of 6 to 1", Limit: 1.3, Got: g.Ratio, Guards: judge})
		}
	}
	return lines
}
