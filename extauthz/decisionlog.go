package extauthz

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"tollgate/extauthz/decisionlines"
	"tollgate/policy"
)

// decisionLog writes decisions with the same fields as the dynamic metadata, so
// that a line and an Envoy access log are joined by decision_id.
type decisionLog struct {
	log     *slog.Logger
	sample  *sample
	lines   *decisionlines.Lines // which get the decisions in place of log; nil for none
	bounded *BoundedLog
	reasons []*boundedKind // so that a scan hides no customer's denials
	shadows []*boundedKind // of what only shadow_mode let pass
}

func newDecisionLog(log *slog.Logger, which Decisions, lines *decisionlines.Lines) *decisionLog {
	l := &decisionLog{log: log, sample: which.sample(), lines: lines, bounded: NewBoundedLog(log)}
	for _, r := range policy.Reasons() {
		kind := &boundedKind{level: slog.LevelInfo, more: "more denied", about: slog.String("reason", r.String())}
		if r == policy.Allowed {
			kind.more = "more allowed"
		}
		// Look-ups that are refused come with a flood of guesses: they are only counted, a line a
		// second.
		if r != policy.LookupRefused {
			kind.limiter = rate.NewLimiter(boundedLines, boundedLines)
		}
		l.bounded.add(kind)
		l.reasons = append(l.reasons, kind)
		shadow := &boundedKind{
			level: slog.LevelInfo, more: "more allowed by shadow_mode", about: slog.String("shadow", r.String()),
			limiter: rate.NewLimiter(boundedLines, boundedLines),
		}
		l.bounded.add(shadow)
		l.shadows = append(l.shadows, shadow)
	}
	return l
}

// decision logs a decision that took so long, if it is in the sample. What only shadow_mode let
// pass is logged as what is denied is.
func (l *decisionLog) decision(ctx context.Context, check *policy.Check, took time.Duration) {
	l.bounded.tellFloods()
	d := check.Decision()
	share, taken := l.sample.take(d.Judged())
	switch {
	case !taken:
	case l.lines != nil:
		l.lines.Add(check, took, share)
	case l.log.Enabled(ctx, slog.LevelInfo):
		l.line(ctx, d)
	}
}

// line writes a decision to the log; unless all are wanted, those of a reason that come too many in
// a second are only counted, in the next line, or when the flood is over.
func (l *decisionLog) line(ctx context.Context, d *policy.Decision) {
	var left int64
	kind := l.reasons[d.Reason]
	if d.Shadow != policy.Allowed {
		kind = l.shadows[d.Shadow]
	}
	if kind.limiter == nil || !l.sample.all {
		var ok bool
		if left, ok = l.bounded.allow(kind); !ok {
			return
		}
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

// end writes all counts that no line has told. It can be called again.
func (l *decisionLog) end() { l.bounded.End() }

// trouble warns of what a request met that is no decision.
func (l *decisionLog) trouble(ctx context.Context, message string, attrs ...slog.Attr) {
	l.bounded.Log(ctx, slog.LevelWarn, message, attrs...)
}
