package extauthz

import (
	"context"
	"fmt"
	"log/slog"

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

// decisionLog writes decisions with the same fields as the dynamic metadata, so
// that a line and an Envoy access log are joined by decision_id.
type decisionLog struct {
	log     *slog.Logger
	which   Decisions
	bounded *BoundedLog
	reasons []*boundedKind // of denials, so that a scan hides no customer's
	shadows []*boundedKind // of what only shadow_mode let pass
}

func newDecisionLog(log *slog.Logger, which Decisions) *decisionLog {
	l := &decisionLog{log: log, which: which, bounded: NewBoundedLog(log)}
	for _, r := range policy.Reasons() {
		kind := &boundedKind{level: slog.LevelInfo, more: "more denied", about: slog.String("reason", r.String())}
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

// decision logs a decision; under LogDenied those of a reason that come too many in
// a second are only counted, in the next line, or when the flood is over. What only shadow_mode
// let pass is logged as what is denied is.
func (l *decisionLog) decision(ctx context.Context, d *policy.Decision) {
	l.bounded.tellFloods()
	if l.which == LogNone || d.Judged() == policy.Allowed && l.which != LogAll || !l.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	var left int64
	kind := l.reasons[d.Reason]
	if d.Shadow != policy.Allowed {
		kind = l.shadows[d.Shadow]
	}
	if kind.limiter == nil || l.which == LogDenied {
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
