package errors

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys"
)

// Last is the last entry of a key, for programs as JSON and for people as a String.
type Last struct{ Row }

// LastOf returns that of a key, nil if none is kept.
func LastOf(ctx context.Context, c redis.UniversalClient, k *keys.Key) (*Last, error) {
	e, err := journal.NewReader(c).Latest(ctx, k.API, k.ID)
	if err != nil || e == nil {
		return nil, err
	}
	return &Last{RowOf(e)}, nil
}

// String says it in a line.
func (l *Last) String() string {
	if l == nil {
		return ""
	}
	text := l.Time.UTC().Format(time.DateTime) + " " + l.Reason
	if l.Code != 0 {
		text += fmt.Sprintf(" (%d)", l.Code)
	}
	if l.Route != "" {
		text += ", route " + l.Route
	}
	if l.Address != "" {
		text += ", from " + l.Address
	}
	if l.More > 0 {
		text += fmt.Sprintf(", and %d more", l.More)
	}
	return text + ", decision " + l.Decision
}
