package clickhouse

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy/usage"
)

const (
	// sendInterval is how long rows are gathered: ClickHouse wants few inserts with many rows.
	sendInterval = 10 * time.Second
	// insertTimeout bounds one insert.
	insertTimeout = 15 * time.Second
	// insertRows bounds one insert, some 5 MB of JSON; it stays one block, which is what a token
	// stands for.
	insertRows = 20_000
	// DefaultRows is how many rows wait at most where nothing else is said: some 45 MB.
	DefaultRows = 200_000
	// firstPause and longestPause are those after a failure, and after many.
	firstPause   = time.Second
	longestPause = time.Minute
)

// Writer sends rows to ClickHouse. Rows that come while ClickHouse does not take any are added up
// with those of the same key, route and hour that wait; beyond a bound they are dropped, and
// counted. Add waits for nothing but memory. One goroutine uses Run, Send and Finish.
type Writer struct {
	client *Client
	epoch  string // of this process
	most   int    // rows

	mu   sync.Mutex
	open rows
	held int // rows that were taken from open and are not acknowledged

	full    chan struct{} // has something when open is worth an insert
	unsent  []insert
	batches int
	after   func(time.Duration) <-chan time.Time

	sent, failed, lost atomic.Uint64
}

// NewWriter returns a Writer that holds so many rows at most, DefaultRows if most is 0.
func NewWriter(c *Client, most int) *Writer {
	if most <= 0 {
		most = DefaultRows
	}
	return &Writer{client: c, epoch: rand.Text(), most: most, open: newRows(), full: make(chan struct{}, 1), after: time.After}
}

// Stats are counts since the start.
type Stats struct {
	Rows    uint64 // acknowledged
	Failed  uint64 // inserts that did not succeed, each of which is tried again
	Lost    uint64 // what a key did on a day, each time that there was no room for it
	Waiting int    // rows
}

// Stats returns the counts.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Stats{Rows: w.sent.Load(), Failed: w.failed.Load(), Lost: w.lost.Load(), Waiting: w.open.len() + w.held}
}

// Add adds what a key or an API did to what waits, all of it or, where there is no room, nothing.
func (w *Writer) Add(d *usage.Delta) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.open.len() + w.held; n+atMost(d) > w.most && n+w.open.missing(d) > w.most {
		w.lost.Add(1)
		return
	}
	w.open.add(d)
	if w.open.len() >= insertRows {
		select {
		case w.full <- struct{}{}:
		default:
		}
	}
}

// Run sends every ten seconds, or when there is enough for an insert, until ctx ends. failed, which
// may be nil, is told why something was not sent; that is tried again, after a second, then two,
// then longer, up to a minute.
func (w *Writer) Run(ctx context.Context, failed func(error)) {
	failures := 0
	for {
		pause, full := sendInterval, w.full
		if failures > 0 {
			pause, full = pauseAfter(failures), nil
		}
		select {
		case <-ctx.Done():
			return
		case <-w.after(pause):
		case <-full:
		}
		err := w.Send(ctx)
		if err == nil || ctx.Err() != nil {
			failures = 0
			continue
		}
		failures++
		if failed != nil {
			failed(err)
		}
	}
}

// pauseAfter returns how long to wait after so many failures, of one or more: some more or less of
// it, so that servers do not come all at once.
func pauseAfter(failures int) time.Duration {
	pause := min(float64(firstPause)*math.Pow(2, float64(failures-1)), float64(longestPause))
	return time.Duration(pause * (0.8 + 0.4*mathrand.Float64()))
}

// Finish sends all that there is, again and again until it has succeeded or ctx ends. The error
// says why something was not sent, and how much.
func (w *Writer) Finish(ctx context.Context) error {
	for failures := 1; ; failures++ {
		err := w.Send(ctx)
		if err == nil && w.Stats().Waiting > 0 {
			err = w.Send(ctx) // what came while the inserts before were sent
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d rows of usage were not sent: %w", w.Stats().Waiting, err)
		case <-w.after(pauseAfter(failures)):
		}
	}
}

// Send sends what could not be sent before, else what has come since. It stops at the first
// failure.
func (w *Writer) Send(ctx context.Context) error {
	if len(w.unsent) == 0 {
		w.seal()
	}
	for len(w.unsent) > 0 {
		if err := w.insert(ctx, &w.unsent[0]); err != nil {
			w.failed.Add(1)
			return fmt.Errorf("usage: %w", err)
		}
		n := len(w.unsent[0].lines)
		w.unsent[0] = insert{}
		w.unsent = w.unsent[1:]
		w.sent.Add(uint64(n))
		w.mu.Lock()
		w.held -= n
		w.mu.Unlock()
	}
	return nil
}

// seal makes inserts of what is open.
func (w *Writer) seal() {
	w.mu.Lock()
	taken := w.open
	w.open = newRows()
	w.held = taken.len()
	w.mu.Unlock()
	if taken.len() == 0 {
		return
	}
	w.batches++
	hours, days := make([]line, 0, len(taken.hours)), make([]line, 0, len(taken.days))
	for k, counts := range taken.hours {
		hours = append(hours, line{rowKey: k, hour: counts})
	}
	for k, counts := range taken.days {
		days = append(days, line{rowKey: k, day: counts})
	}
	w.unsent = append(w.inserts(insertHours, hours), w.inserts(insertDays, days)...)
}

func (w *Writer) inserts(query string, lines []line) (all []insert) {
	for part := 0; len(lines) > 0; part++ {
		n := min(len(lines), insertRows)
		all = append(all, insert{query: query, token: fmt.Sprintf("%s/%d/%d", w.epoch, w.batches, part), lines: lines[:n:n]})
		lines = lines[n:]
	}
	return all
}

// insert sends one insert. ClickHouse remembers its token, so that it counts once even if the reply
// to an earlier try was lost.
func (w *Writer) insert(ctx context.Context, i *insert) error {
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	_, err := w.client.do(ctx, i.query, insertOptions(i.token), nil, i.body())
	return err
}

// insertOptions are the settings of an insert with a name of its own.
func insertOptions(token string) map[string]string {
	return map[string]string{
		"insert_deduplicate": "1", "insert_deduplication_token": token,
		// One insert is one block, written when it is acknowledged.
		"async_insert": "0", "input_format_parallel_parsing": "0", "max_insert_threads": "1",
	}
}
