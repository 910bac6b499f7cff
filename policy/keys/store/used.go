package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// usedTTL ends the note of a use after so long that the key counts as unused anyway, and that of a
// deleted key which a replica has written late.
const usedTTL = 400 * 24 * time.Hour

// usedKey is beside the record, so that a use is no change of it.
func usedKey(id string) string { return "tg:v1:used:{" + id + "}" }

// Use is one use of a key.
type Use struct {
	ID string    // of the key
	At time.Time // written to the second
}

// Touch notes when keys were last used, to the second. Of several uses of one key the last of the
// list is kept. Call it about once a minute for a key. The error means that the store did not
// answer; any part may be written.
func (s *Store) Touch(ctx context.Context, uses []Use) error {
	if len(uses) == 0 {
		return nil
	}
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, use := range uses {
			p.Set(ctx, usedKey(use.ID), use.At.Unix(), usedTTL)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keys: note last uses: %w", ReadError(ctx, "", err))
	}
	return nil
}

// lastUsed reads the answer to a GET of usedKey. What cannot be read is not known.
func lastUsed(reply *redis.StringCmd) (time.Time, error) {
	text, err := reply.Result()
	if errors.Is(err, redis.Nil) || err != nil && IsWrongType(err) {
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
