package cache

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/policy/keys/store"
)

const (
	// checkInterval is how often the stream is looked at.
	checkInterval = store.HeartbeatInterval / 4
	// subscribeTimeout bounds the start of a subscription, with its connection.
	subscribeTimeout = time.Second
	// heartbeatTimeout bounds the publishing of a heartbeat, during which silence is not noticed.
	heartbeatTimeout = store.HeartbeatInterval / 2
)

// stream is the state of the change stream.
type stream struct {
	// generation counts the moments at which messages may have been lost.
	generation atomic.Uint32
	listening  atomic.Bool
	heard      atomic.Int64           // cache time of the last message
	problem    atomic.Pointer[string] // why it is lost; nil at first and while it is not
	heartbeats heartbeats
	latest     atomic.Int64  // of the changes heard of: when it was made, in Unix ms by the clock of the store
	news       chan struct{} // that latest may be another

	ticks func() (<-chan time.Time, func()) // one each checkInterval, until it is stopped
}

func newStream() stream {
	return stream{news: make(chan struct{}, 1), ticks: func() (<-chan time.Time, func()) {
		t := time.NewTicker(checkInterval)
		return t.C, t.Stop
	}}
}

// StreamStatus says whether changes arrive.
type StreamStatus struct {
	Listening bool
	Silent    time.Duration // since the last message
	Problem   string        // why not, in the words of the store; "" while listening
}

// Stream returns the state of the change stream.
func (c *Cache) Stream() StreamStatus {
	s := StreamStatus{Listening: c.stream.listening.Load(), Silent: time.Duration(c.now() - c.stream.heard.Load())}
	if p := c.stream.problem.Load(); p != nil {
		s.Problem = *p
	}
	return s
}

// Run listens to the changes until ctx ends, and connects again when the stream is lost. It is
// called once.
func (c *Cache) Run(ctx context.Context) {
	ticks, stop := c.stream.ticks()
	defer stop()
	defer c.leave(ctx)
	for {
		began := c.now()
		err := c.listen(ctx, ticks)
		if ctx.Err() != nil {
			return
		}
		c.lost(err)
		if c.now()-began >= int64(store.HeartbeatInterval) {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

// lost says once why changes do not arrive.
func (c *Cache) lost(err error) {
	problem := err.Error()
	if c.stream.problem.Swap(&problem) == nil {
		c.options.Log.Warn("the stream of key changes is lost: changes are seen after the TTL",
			slog.Duration("ttl", c.options.TTL), slog.Any("error", err))
	}
}

// listen subscribes once and stays until the stream is lost or ctx ends.
func (c *Cache) listen(ctx context.Context, ticks <-chan time.Time) error {
	// What was changed before is read again, so that it is as good as heard of.
	before := c.storeTime(ctx)
	sub, err := c.store.Subscribe(ctx, subscribeTimeout)
	if err != nil {
		return err
	}
	var reader sync.WaitGroup
	defer reader.Wait()
	defer sub.Close() // also ends the reader
	if c.stream.problem.Swap(nil) != nil {
		c.options.Log.Info("the stream of key changes is back")
	}
	// What was read before could have changed without a message; what is read from now on cannot.
	c.newGeneration()
	c.hear()
	c.hearOf(before)
	c.stream.listening.Store(true)
	defer c.newGeneration()
	defer c.stream.listening.Store(false)

	ended := make(chan error, 1)
	// The reader does nothing but read and apply. The embedded store waits for its subscribers, so
	// one that published and waited for the reply would wait for itself.
	reader.Go(func() { ended <- c.receive(ctx, sub) })
	var said confirming
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case <-c.stream.news:
			c.confirm(ctx, &said)
		case <-ticks:
			c.confirm(ctx, &said)
			quiet := time.Duration(c.now() - c.stream.heard.Load())
			if quiet >= store.MaxSilence {
				return fmt.Errorf("keys: nothing was heard for %v", quiet)
			}
			if quiet >= store.HeartbeatInterval {
				c.publishHeartbeat(ctx)
			}
		}
	}
}

// receive applies what arrives until the connection ends.
func (c *Cache) receive(ctx context.Context, sub *store.ChangeStream) error {
	for {
		message, again, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if again {
			c.newGeneration()
			continue
		}
		c.hear()
		c.apply(message)
	}
}

// publishHeartbeat proves to all replicas that messages arrive. Its failure needs no word: nothing
// will be heard.
func (c *Cache) publishHeartbeat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	_, _ = c.store.PublishHeartbeat(ctx)
}

// apply carries out one message. One that it cannot read could mean any key.
func (c *Cache) apply(message string) {
	if message == store.Heartbeat {
		return
	}
	c.counts.changes.Add(1)
	change, ok := store.ParseChange(message)
	if !ok {
		c.newGeneration()
		return
	}
	c.forget(change.Digest)
	if change.LimitID != "" {
		c.options.Reset(change.LimitID)
	}
	c.hearOf(change.Made)
	wall := time.Now
	if c.options.Now != nil {
		wall = c.options.Now
	}
	c.options.Changed(max(wall().Sub(change.Made), 0))
}

func (c *Cache) newGeneration() { c.stream.generation.Add(1) }
