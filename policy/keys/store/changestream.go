package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// Each script that changes a key publishes "<Unix ms> <hex digest> <id>" on this channel, and who
// resets what is counted for a key the same and the limit id after it, which servers of earlier
// versions take for a change of the key. A replica that has heard nothing for a second publishes
// the heartbeat there.
const (
	changesChannel = "tg:v1:changes"
	// Heartbeat is the message of a server that has heard nothing for a HeartbeatInterval.
	Heartbeat = "hb"
)

// How often a server that hears nothing publishes a heartbeat, and for how long nothing may be
// heard before it takes the stream of changes for lost.
const (
	HeartbeatInterval = time.Second
	MaxSilence        = 3 * HeartbeatInterval
)

// ChangeStream is a subscription to the changes of keys.
type ChangeStream struct{ sub *redis.PubSub }

// Subscribe returns once the store has confirmed the subscription, which takes at most timeout. The
// caller closes the stream.
func (s *Store) Subscribe(ctx context.Context, timeout time.Duration) (*ChangeStream, error) {
	sub := s.client.Subscribe(ctx)
	if err := confirmed(ctx, sub, timeout); err != nil {
		_ = sub.Close()
		return nil, fmt.Errorf("keys: subscribe: %w", err)
	}
	return &ChangeStream{sub}, nil
}

func confirmed(ctx context.Context, sub *redis.PubSub, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := sub.Subscribe(ctx, changesChannel); err != nil {
		return err
	}
	reply, err := sub.ReceiveTimeout(ctx, timeout)
	if err != nil {
		return err
	}
	if _, ok := reply.(*redis.Subscription); !ok {
		return fmt.Errorf("the store answered %T", reply)
	}
	return nil
}

// Next waits for a message: a Heartbeat, or what ParseChange reads. again says that there is none,
// because the client has connected anew by itself: messages may have been lost.
func (c *ChangeStream) Next(ctx context.Context) (message string, again bool, err error) {
	for {
		reply, err := c.sub.Receive(ctx)
		if err != nil {
			return "", false, fmt.Errorf("keys: change stream: %w", err)
		}
		switch m := reply.(type) {
		case *redis.Subscription:
			return "", true, nil
		case *redis.Message:
			return m.Payload, false, nil
		}
	}
}

// Close ends the stream, and Next.
func (c *ChangeStream) Close() error { return c.sub.Close() }

// PublishHeartbeat publishes a heartbeat, and returns how many servers listen on the node that it
// was sent to.
func (s *Store) PublishHeartbeat(ctx context.Context) (listeners int64, err error) {
	return s.client.Publish(ctx, changesChannel, Heartbeat).Result()
}

// Change is what a message says.
type Change struct {
	Made   time.Time   // by the clock of the store
	Digest keys.Digest // of the key
	// LimitID is set if what is counted for it is reset.
	LimitID string
}

// ParseChange reads "<Unix ms> <hex digest> <id>", after which a limit id may stand.
func ParseChange(message string) (c Change, ok bool) {
	ms, rest, _ := strings.Cut(message, " ")
	digits, id, named := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || !named || len(digits) != 2*len(c.Digest) {
		return Change{}, false
	}
	if _, err := hex.Decode(c.Digest[:], []byte(digits)); err != nil {
		return Change{}, false
	}
	_, c.LimitID, _ = strings.Cut(id, " ")
	c.Made = time.UnixMilli(n)
	return c, true
}

// resetSource publishes that what is counted for a key is reset.
const resetSource = `
local clock = redis.call('TIME')
local ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
return redis.call('PUBLISH', ARGV[1], ms .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])`

// PublishReset tells servers that what is counted for a key is reset: they give back what they hold
// of it, and forget what they refused.
func (s *Store) PublishReset(ctx context.Context, k *keys.Key) error {
	err := s.scripts.reset.Run(ctx, s.client, []string{recordKey(k.ID)}, changesChannel, k.Digest.Hex(), k.ID, k.LimitID).Err()
	if err != nil {
		return ReadError(ctx, k.ID, err)
	}
	return nil
}
