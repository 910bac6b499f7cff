package extauthz

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"tollgate/policy"
)

// Decisions says which decisions are logged, a line each.
type Decisions string

// The values of Decisions. Store trouble is logged under each of them.
const (
	LogNone   Decisions = "none"
	LogDenied Decisions = "denied"
	LogAll    Decisions = "all"
)

// ParseDecisions reads none, denied or all.
func ParseDecisions(s string) (Decisions, error) {
	switch d := Decisions(s); d {
	case LogNone, LogDenied, LogAll:
		return d, nil
	}
	return "", fmt.Errorf("unknown value %q, want none, denied or all", s)
}

// deniedLines is how many denials of one reason are logged in a second. More tell
// nobody more, and would let a flood of refused requests cost what an allowed one
// does not: a line of text and a system call each.
const deniedLines = 100

// decisionLog writes decisions with the same fields as the dynamic metadata, so
// that a line and an Envoy access log are joined by decision_id.
type decisionLog struct {
	log     *slog.Logger
	bounded *BoundedLog // for all that is not a decision
	which   Decisions
	reasons []deniedLog  // by reason, so that a scan hides no customer's denials
	due     atomic.Int64 // when to look for floods that are over, Unix ns; 0: nothing is left to tell
	now     func() time.Time
}

// deniedLog bounds the lines about one reason.
type deniedLog struct {
	limiter *rate.Limiter
	left    atomic.Int64 // denials since the last line that got none
	latest  atomic.Int64 // when the latest of them was, Unix ns
}

// floodOver is how long after its last denial a flood is over.
const floodOver = time.Second

func newDecisionLog(log *slog.Logger, which Decisions) *decisionLog {
	l := &decisionLog{log: log, bounded: NewBoundedLog(log), which: which, reasons: make([]deniedLog, len(policy.Reasons())), now: time.Now}
	for i := range l.reasons {
		l.reasons[i].limiter = rate.NewLimiter(deniedLines, deniedLines)
	}
	return l
}

// decision logs a decision; under LogDenied those of a reason that come too many in
// a second are only counted, in the next line, or when the flood is over. Look-ups that
// are refused come with a flood of guesses: they are only counted, a line a second.
func (l *decisionLog) decision(ctx context.Context, d *policy.Decision) {
	if l.due.Load() != 0 {
		l.tellFloods()
	}
	if l.bounded.due.Load() != 0 {
		l.bounded.tellFloods()
	}
	if l.which == LogNone || d.Allow && l.which != LogAll || !l.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	var left int64
	if counted := d.Reason == policy.LookupRefused; counted || l.which == LogDenied {
		of := &l.reasons[d.Reason]
		if now := l.now(); counted || !of.limiter.AllowN(now, 1) {
			of.left.Add(1)
			of.latest.Store(now.UnixNano())
			l.due.CompareAndSwap(0, now.Add(floodOver).UnixNano())
			return
		}
		left = of.left.Swap(0)
	}
	attrs := make([]slog.Attr, 0, len(d.Metadata)+2)
	if d.Status != 0 {
		attrs = append(attrs, slog.Int("status", d.Status))
	}
	for _, m := range d.Metadata {
		attrs = append(attrs, slog.String(m.Name, m.Value))
	}
	if left > 0 {
		attrs = append(attrs, slog.Int64("not_logged", left))
	}
	message := "denied"
	if d.Allow {
		message = "allowed"
	}
	l.log.LogAttrs(ctx, slog.LevelInfo, message, attrs...)
}

// tellFloods writes the counts of the floods that are over, of which no denial may ever
// come again to tell of them. Any decision may do that, the next one after a second.
func (l *decisionLog) tellFloods() {
	now, due := l.now().UnixNano(), l.due.Load()
	if due == 0 || now < due || !l.due.CompareAndSwap(due, 0) {
		return
	}
	for i := range l.reasons {
		of := &l.reasons[i]
		switch {
		case of.left.Load() == 0:
		case now < of.latest.Load()+int64(floodOver) && policy.Reason(i) != policy.LookupRefused:
			l.due.CompareAndSwap(0, now+int64(floodOver))
		default:
			l.tell(policy.Reason(i))
		}
	}
}

// end writes all counts that no line has told. It can be called again.
func (l *decisionLog) end() {
	l.bounded.end()
	for i := range l.reasons {
		l.tell(policy.Reason(i))
	}
}

func (l *decisionLog) tell(r policy.Reason) {
	if left := l.reasons[r].left.Swap(0); left > 0 {
		l.log.LogAttrs(context.Background(), slog.LevelInfo, "more denied", slog.String("reason", r.String()), slog.Int64("not_logged", left))
	}
}

func (l *decisionLog) trouble(ctx context.Context, message string, attrs ...slog.Attr) {
	l.bounded.Log(ctx, slog.LevelWarn, message, attrs...)
}
