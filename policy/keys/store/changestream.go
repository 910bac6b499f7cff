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

// Each script that changes a key publishes "<Unix ms> <hex digest> <id>" on this channel. A replica
// that has heard nothing for a second publishes the heartbeat there.
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

// ParseChange reads "<Unix ms> <hex digest> <id>".
func ParseChange(message string) (made time.Time, d keys.Digest, ok bool) {
	ms, rest, _ := strings.Cut(message, " ")
	digits, _, named := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || !named || len(digits) != 2*len(d) {
		return time.Time{}, keys.Digest{}, false
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return time.Time{}, keys.Digest{}, false
	}
	return time.UnixMilli(n), d, true
}
