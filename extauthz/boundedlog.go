package extauthz

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// BoundedLog writes what requests can cause, with the bound that denials have: so many
// lines a second of each message, the others counted in the next of them or, when the
// flood is over, in one of its own. It is safe for concurrent use.
type BoundedLog struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	kinds map[string]*boundedKind // by message, of which the code has a few
	due   atomic.Int64            // when to look for floods that are over, Unix ns; 0: nothing is left to tell
}

// boundedKind are the lines with one message.
type boundedKind struct {
	level   slog.Level
	limiter *rate.Limiter
	left    int64     // lines since the last one that were not written
	latest  time.Time // when the latest of them was
}

// NewBoundedLog returns a BoundedLog that writes to log.
func NewBoundedLog(log *slog.Logger) *BoundedLog {
	return &BoundedLog{log: log, now: time.Now, kinds: map[string]*boundedKind{}}
}

// Log writes a line, or counts it. The message is a constant: what differs is in attrs.
func (b *BoundedLog) Log(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	left, ok := b.allow(level, message)
	if !ok {
		return
	}
	if left > 0 {
		attrs = append(attrs, slog.Int64("not_logged", left))
	}
	b.log.LogAttrs(ctx, level, message, attrs...)
}

func (b *BoundedLog) allow(level slog.Level, message string) (left int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kind, now := b.kinds[message], b.now()
	if kind == nil {
		kind = &boundedKind{level: level, limiter: rate.NewLimiter(deniedLines, deniedLines)}
		b.kinds[message] = kind
	}
	if !kind.limiter.AllowN(now, 1) {
		kind.left++
		kind.latest = now
		b.due.CompareAndSwap(0, now.Add(floodOver).UnixNano())
		return 0, false
	}
	left, kind.left = kind.left, 0
	return left, true
}

// tellFloods writes the counts of the floods that are over. Any decision may do that.
func (b *BoundedLog) tellFloods() {
	now, due := b.now(), b.due.Load()
	if due == 0 || now.UnixNano() < due || !b.due.CompareAndSwap(due, 0) {
		return
	}
	b.tell(func(kind *boundedKind) bool {
		over := now.Sub(kind.latest) >= floodOver
		if !over {
			b.due.CompareAndSwap(0, now.Add(floodOver).UnixNano())
		}
		return over
	})
}

// end writes all counts that no line has told. It can be called again.
func (b *BoundedLog) end() { b.tell(func(*boundedKind) bool { return true }) }

func (b *BoundedLog) tell(over func(*boundedKind) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for message, kind := range b.kinds {
		if kind.left > 0 && over(kind) {
			b.log.LogAttrs(context.Background(), kind.level, "more of the same", slog.String("message", message), slog.Int64("not_logged", kind.left))
			kind.left = 0
		}
	}
}
