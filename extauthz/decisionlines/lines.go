// Package decisionlines makes a line of JSON of each decision, and has the lines written: to
// standard output, or to whatever else takes them. Decisions wait for no writing; their lines do,
// within a bound.
package decisionlines

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy"
)

const (
	// room bounds the lines that wait to be written, in bytes: some 10,000. As many more may be on
	// their way.
	room = 4 << 20
	// lastTime is how long writing may go on after the end of Run's context.
	lastTime = time.Second
	// firstPause and longestPause are those after a failure, and after many.
	firstPause   = time.Second
	longestPause = time.Minute
)

// Sink takes whole lines, one or more, and returns how many it has taken: all of them, or less with
// an error. It keeps none of the bytes. One goroutine calls it.
type Sink interface {
	Take(ctx context.Context, lines []byte) (taken int, err error)
}

// Options say how a Sink is written to.
type Options struct {
	// Gather is how long lines are gathered, unless half of the room is full earlier; 0 writes them
	// as they come.
	Gather time.Duration
	// Repeat offers lines that were not taken again, the same bytes, after a second, then two, then
	// longer, up to a minute, until they are; else they are lost. Such a Sink takes all or none.
	Repeat bool
}

// Lines makes a line of JSON for each decision that it is given, and has a Sink take them. What is
// beyond its room is dropped and counted. It is safe for concurrent use.
type Lines struct {
	sink Sink
	Options
	now   func() time.Time
	after func(time.Duration) <-chan time.Time
	last  time.Duration // lastTime
	spare sync.Pool     // of *[]byte, for a line that is being made

	written, dropped, failed atomic.Uint64

	mu      sync.Mutex
	waiting batch
	wake    chan struct{} // has something when a line waits
	full    chan struct{} // has something when half of the room is used

	// Of the goroutine that is in Run.
	taken batch // is being written, or is to be written again
	empty []byte

	count *prometheus.Desc
}

// batch are whole lines.
type batch struct {
	bytes []byte
	lines uint64
}

// New returns lines that Run has the sink take, and registers their metric.
func New(sink Sink, o Options, now func() time.Time, r prometheus.Registerer) *Lines {
	l := &Lines{
		sink: sink, Options: o, now: now, after: time.After, last: lastTime, wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		spare: sync.Pool{New: func() any { return new([]byte) }},
		count: prometheus.NewDesc("tollgate_decision_log_lines_total", "Lines of the decision log: written; dropped because too many waited to be written; failed to be written.", []string{"outcome"}, nil),
	}
	r.MustRegister(l)
	return l
}

// Add takes the line of a decision that took so long, and of whose reason that share is logged.
func (l *Lines) Add(check *policy.Check, took time.Duration, share float64) {
	line := l.spare.Get().(*[]byte)
	defer l.spare.Put(line)
	*line = appendDecision((*line)[:0], check, l.now(), took, share)
	l.mu.Lock()
	fits := len(l.waiting.bytes)+len(*line) <= room
	if fits {
		l.waiting.bytes = append(l.waiting.bytes, *line...)
		l.waiting.lines++
	}
	half := len(l.waiting.bytes) > room/2
	l.mu.Unlock()
	if !fits {
		l.dropped.Add(1)
		return
	}
	signal(l.wake)
	if half {
		signal(l.full)
	}
}

func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default: // it is there already
	}
}

// Run has lines taken until ctx ends, and then those that wait, for a second at most. failed is
// told of each time that the sink did not take lines.
func (l *Lines) Run(ctx context.Context, failed func(error)) {
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(l.last, stop) })()
	failures := 0
	for ctx.Err() == nil {
		l.pause(ctx, failures)
		if err := l.write(writing); err != nil {
			failures++
			failed(err)
		} else {
			failures = 0
		}
	}
	for again := true; again && writing.Err() == nil; { // what had failed, then what has come since
		repeated := l.taken.lines > 0
		err := l.write(writing)
		if err != nil {
			failed(err)
		}
		again = repeated && err == nil
	}
	if n := l.giveUp(); n > 0 {
		failed(fmt.Errorf("%d lines had no time to be written", n))
	}
}

// pause waits until there is something to write, or it is time to try once more.
func (l *Lines) pause(ctx context.Context, failures int) {
	if l.taken.lines > 0 {
		select {
		case <-ctx.Done():
		case <-l.after(pauseAfter(failures)):
		}
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-l.wake:
	}
	if l.Gather == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-l.after(l.Gather):
	case <-l.full:
	}
}

// pauseAfter returns how long to wait after so many failures, of one or more: some more or less of
// it, so that servers do not come all at once.
func pauseAfter(failures int) time.Duration {
	pause := min(firstPause<<min(failures-1, 10), longestPause)
	return time.Duration(float64(pause) * (0.8 + 0.4*rand.Float64()))
}

// write offers the sink what it has not taken, else what waits.
func (l *Lines) write(ctx context.Context) error {
	if l.taken.lines == 0 {
		l.mu.Lock()
		l.taken, l.waiting = l.waiting, batch{bytes: l.empty[:0]}
		l.mu.Unlock()
		l.empty = nil
	}
	if l.taken.lines == 0 {
		l.empty = l.taken.bytes
		return nil
	}
	n, err := l.sink.Take(ctx, l.taken.bytes)
	if err != nil && l.Repeat {
		return err
	}
	l.written.Add(uint64(n))
	l.failed.Add(l.taken.lines - uint64(n))
	l.taken, l.empty = batch{}, l.taken.bytes
	return err
}

// giveUp forgets what there is no time for any more, and returns how many lines it was.
func (l *Lines) giveUp() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.taken.lines + l.waiting.lines
	l.taken, l.waiting = batch{}, batch{}
	l.failed.Add(n)
	return n
}

// Describe implements prometheus.Collector.
func (l *Lines) Describe(out chan<- *prometheus.Desc) { out <- l.count }

// Collect implements prometheus.Collector.
func (l *Lines) Collect(out chan<- prometheus.Metric) {
	for outcome, n := range map[string]*atomic.Uint64{"written": &l.written, "dropped": &l.dropped, "failed": &l.failed} {
		out <- prometheus.MustNewConstMetric(l.count, prometheus.CounterValue, float64(n.Load()), outcome)
	}
}

// Writer is a Sink that writes lines as they are.
type Writer struct{ io.Writer }

// Take implements Sink.
func (w Writer) Take(_ context.Context, lines []byte) (int, error) {
	if _, err := w.Write(lines); err != nil {
		return 0, err
	}
	return bytes.Count(lines, []byte{'\n'}), nil
}
