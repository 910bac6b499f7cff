package ledger

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/usage"
)

// Reader reads usage. It is safe for concurrent use.
type Reader struct{ client redis.UniversalClient }

// NewReader returns a Reader.
func NewReader(c redis.UniversalClient) *Reader { return &Reader{client: c} }

// readTrip is how many hashes or texts are read in one round trip.
const readTrip = 500

// Days reads what subjects did on a day, in one round trip for each readTrip of them, and hands each
// that did anything to found.
func (r *Reader) Days(ctx context.Context, subjects []usage.Subject, day usage.Day, found func(usage.Subject, *usage.DayUsage)) error {
	for len(subjects) > 0 {
		part := subjects[:min(len(subjects), readTrip)]
		subjects = subjects[len(part):]
		replies := make([]*redis.MapStringStringCmd, len(part))
		_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, s := range part {
				replies[i] = p.HGetAll(ctx, dayKey(s, day))
			}
			return nil
		})
		for i, s := range part {
			fields, err := replies[i].Result()
			switch {
			case redis.HasErrorPrefix(err, "WRONGTYPE"):
			case err != nil:
				return fmt.Errorf("usage: read: %w", err)
			case len(fields) > 0:
				found(s, parseDay(fields))
			}
		}
	}
	return nil
}
