package keys

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// usedTTL ends the note of a use after so long that the key counts as unused anyway, and that of a deleted key which
// a replica has written late.
const usedTTL = 400 * 24 * time.Hour

// usedKey is beside the record, so that a use is no change of it.
func usedKey(id string) string { return "tg:v1:used:{" + id + "}" }

// Touch notes when keys, named by id, were last used, to the second. Call it at most once a minute for a key. The error
// means that the store did not answer; any part may be written.
func (s *Store) Touch(ctx context.Context, ids map[string]time.Time) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for id, at := range ids {
			p.Set(ctx, usedKey(id), at.Unix(), usedTTL)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keys: note last uses: %w", readError(ctx, "", err))
	}
	return nil
}

// lastUsed reads the answer to a GET of usedKey. What cannot be read is not known.
func lastUsed(reply *redis.StringCmd) (time.Time, error) {
	text, err := reply.Result()
	if errors.Is(err, redis.Nil) || err != nil && isWrongType(err) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds <= 0 {
		return time.Time{}, nil
	}
	return time.Unix(seconds, 0).UTC(), nil
}
