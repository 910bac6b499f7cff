package extauthz

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// boundedLines is how many lines of one kind are logged in a second. More tell nobody more, and
// would let a flood of requests cost what an allowed one does not: a line of text and a system call
// each.
const boundedLines = 100

// floodOver is how long after its last line a flood is over.
const floodOver = time.Second

// BoundedLog writes what requests can cause: so many lines a second of each kind, so that a flood
// of one hides no other, and the rest counted in the next of them or, when the flood is over, in a
// line of its own. It is safe for concurrent use.
type BoundedLog struct {
	log *slog.Logger
	now func() time.Time
	due atomic.Int64 // when to look for floods that are over, Unix ns; 0: nothing is left to tell

	mu       sync.Mutex
	messages map[string]*boundedKind // the kinds of Log, of which the code has a few
	kinds    []*boundedKind          // all; only appended to
}

// boundedKind are lines that share a bound.
type boundedKind struct {
	level   slog.Level
	more    string        // the message that tells how many were not written
	about   slog.Attr     // of which kind, in that line
	limiter *rate.Limiter // nil: none is written, and the count each second
	left    atomic.Int64  // since the last line
	latest  atomic.Int64  // when the latest of them was, Unix ns
}

// NewBoundedLog returns a BoundedLog that writes to log.
func NewBoundedLog(log *slog.Logger) *BoundedLog {
	return &BoundedLog{log: log, now: time.Now, messages: map[string]*boundedKind{}}
}

// Log writes a line, or counts it. The message is a constant, and each is a kind: what differs is
// in attrs.
func (b *BoundedLog) Log(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	left, ok := b.allow(b.kindOf(level, message))
	if !ok {
		return
	}
	if left > 0 {
		attrs = append(attrs, slog.Int64("not_logged", left))
	}
	b.log.LogAttrs(ctx, level, message, attrs...)
}

func (b *BoundedLog) kindOf(level slog.Level, message string) *boundedKind {
	b.mu.Lock()
	defer b.mu.Unlock()
	kind := b.messages[message]
	if kind == nil {
		kind = &boundedKind{
			level: level, more: "more of the same", about: slog.String("message", message),
			limiter: rate.NewLimiter(boundedLines, boundedLines),
		}
		b.messages[message] = kind
		b.kinds = append(b.kinds, kind)
	}
	return kind
}

// add makes a kind known to tellFloods and End.
func (b *BoundedLog) add(kind *boundedKind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kinds = append(b.kinds, kind)
}

// allow reports whether a line may be written, and how many before it were not.
func (b *BoundedLog) allow(kind *boundedKind) (left int64, ok bool) {
	if now := b.now(); kind.limiter == nil || !kind.limiter.AllowN(now, 1) {
		kind.left.Add(1)
		kind.latest.Store(now.UnixNano())
		b.due.CompareAndSwap(0, now.Add(floodOver).UnixNano())
		return 0, false
	}
	return kind.left.Swap(0), true
}

// tellFloods writes the counts of the floods that are over, of which no line may ever come again to
// tell of them. Any decision may do that, the next one after a second.
func (b *BoundedLog) tellFloods() {
	due := b.due.Load()
	if due == 0 {
		return
	}
	now := b.now().UnixNano()
	if now < due || !b.due.CompareAndSwap(due, 0) {
		return
	}
	for _, kind := range b.all() {
		switch {
		case kind.left.Load() == 0:
		case now < kind.latest.Load()+int64(floodOver) && kind.limiter != nil:
			b.due.CompareAndSwap(0, now+int64(floodOver))
		default:
			b.tell(kind)
		}
	}
}

// End writes all counts that no line has told. It can be called again.
func (b *BoundedLog) End() {
	for _, kind := range b.all() {
		b.tell(kind)
	}
}

func (b *BoundedLog) all() []*boundedKind {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kinds
}

func (b *BoundedLog) tell(kind *boundedKind) {
	if left := kind.left.Swap(0); left > 0 {
		b.log.LogAttrs(context.Background(), kind.level, kind.more, kind.about, slog.Int64("not_logged", left))
	}
}
