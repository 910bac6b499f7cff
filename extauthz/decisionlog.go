package extauthz

import (
	"context"
	"fmt"
	"log/slog"

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
	log   *slog.Logger
	which Decisions
}

func (l *decisionLog) decision(ctx context.Context, d *policy.Decision) {
	if l.which == LogNone || d.Allow && l.which != LogAll || !l.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := make([]slog.Attr, 0, len(d.Metadata)+1)
	if d.Status != 0 {
		attrs = append(attrs, slog.Int("status", d.Status))
	}
	for _, m := range d.Metadata {
		attrs = append(attrs, slog.String(m.Name, m.Value))
	}
	message := "denied"
	if d.Allow {
		message = "allowed"
	}
	l.log.LogAttrs(ctx, slog.LevelInfo, message, attrs...)
}

func (l *decisionLog) trouble(ctx context.Context, message string, attrs ...slog.Attr) {
	l.log.LogAttrs(ctx, slog.LevelWarn, message, attrs...)
}
