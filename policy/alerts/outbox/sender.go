package outbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	sendInterval  = time.Second
	settleTimeout = 2 * time.Second
	// GiveUpAfter is for how long a message is tried.
	GiveUpAfter = 24 * time.Hour
	// The first pause after a try, what each further one is longer by, and the longest.
	firstPause, pauseFactor, longestPause = 5 * time.Second, 3, 2 * time.Hour
)

// Post sends a message. An error means that the receiver may not have it.
type Post func(ctx context.Context, id string, at time.Time, body []byte) error

// Sender sends what waits. Any number of servers may run one on the same Redis: a lock lets one
// send at a time, and who takes over after it sends what the other left. A receiver may still get a
// message twice, if a server dies between the answer and the note of it: it has the same id then.
type Sender struct {
	outbox *Outbox
	ways   map[string]Post
	token  string
	ticks  func() (<-chan time.Time, func())

	sent, failed, dead, overtaken atomic.Uint64
	holder                        atomic.Bool
}

// NewSender returns a Sender with these ways out.
func NewSender(o *Outbox, ways map[string]Post) *Sender {
	return &Sender{outbox: o, ways: ways, token: rand.Text(), ticks: func() (<-chan time.Time, func()) {
		t := time.NewTicker(sendInterval)
		return t.C, t.Stop
	}}
}

// SenderStats are counts since the start.
type SenderStats struct {
	Sent      uint64
	Failed    uint64 // tries
	Dead      uint64 // given up
	Overtaken uint64 // sent or tried, and claimed by another server meanwhile
	Holder    bool   // this is the server that sends
}

// Stats returns the counts.
func (s *Sender) Stats() SenderStats {
	return SenderStats{s.sent.Load(), s.failed.Load(), s.dead.Load(), s.overtaken.Load(), s.holder.Load()}
}

// Run sends once a second until ctx ends. failed is told of a store that does not answer.
func (s *Sender) Run(ctx context.Context, failed func(error)) {
	ticks, stop := s.ticks()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			if err := s.Tick(ctx); err != nil && ctx.Err() == nil {
				failed(err)
			}
		}
	}
}

// Tick sends some of what is due, if no other server does.
func (s *Sender) Tick(ctx context.Context) error {
	c, err := s.outbox.claim(ctx, s.token)
	s.holder.Store(err == nil && c.mine)
	if err != nil {
		return err
	}
	errs := make([]error, len(c.messages))
	var work sync.WaitGroup
	for i := range c.messages {
		work.Go(func() { errs[i] = s.send(ctx, &c, &c.messages[i]) })
	}
	work.Wait()
	return errors.Join(errs...)
}

func (s *Sender) send(ctx context.Context, c *claimed, m *message) error {
	err := errors.New(m.Error)
	if m.Body != nil {
		err = s.post(ctx, m, time.UnixMilli(c.now))
	}
	if ctx.Err() != nil && err != nil {
		return nil // whoever sends next tries it again when the claim has ended
	}
	text, again := "", time.Duration(0)
	if err != nil {
		text, again = s.after(c.now, &m.record, err)
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	counts, settled := s.outbox.settle(limited, m.id, c.ends, text, again)
	switch {
	case settled != nil:
		return settled
	case !counts:
		s.overtaken.Add(1)
	case err == nil:
		s.sent.Add(1)
	case again < 0:
		s.dead.Add(1)
		fallthrough
	default:
		s.failed.Add(1)
	}
	return nil
}

func (s *Sender) post(ctx context.Context, m *message, at time.Time) error {
	to := cmp.Or(m.To, Webhook)
	post := s.ways[to]
	if post == nil {
		return fmt.Errorf("the server that sends has no %s", to)
	}
	return post(ctx, m.id, at, m.Body)
}

// maxError bounds what is kept of an error, in bytes.
const maxError = 300

// after returns the record of a message that was tried, and when it is tried again: -1 for never.
func (s *Sender) after(now int64, r *record, err error) (text string, again time.Duration) {
	if r.First == 0 {
		r.First = now
	}
	r.Tries++
	r.Error = err.Error()[:min(len(err.Error()), maxError)]
	again = pause(r.Tries, mathrand.Float64())
	tried := time.Duration(now-r.First) * time.Millisecond
	if r.Body == nil || tried+again > GiveUpAfter {
		again = -1
	}
	return r.text(), again
}

// pause is how long to wait after so many tries: half of it at least, more by chance, so that what
// has failed together does not come back together.
func pause(tries int, chance float64) time.Duration {
	d := firstPause
	for i := 1; i < tries && d < longestPause; i++ {
		d *= pauseFactor
	}
	d = min(d, longestPause)
	return d/2 + time.Duration(chance*float64(d/2))
}
