package keys

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// errNoPrimary is for clients of a kind that does not say which server holds a key.
var errNoPrimary = errors.New("keys: this kind of client has no single connection to a primary")

// primary returns a connection of its own to the server that holds the record of id. WAIT counts the replicas that
// have what its own connection wrote.
func (s *Store) primary(ctx context.Context, id string) (*redis.Conn, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		return c.Conn(), nil
	case *redis.ClusterClient:
		node, err := c.MasterForKey(ctx, recordKey(id))
		if err != nil {
			return nil, readError(ctx, id, err)
		}
		return node.Conn(), nil
	}
	return nil, errNoPrimary
}

// Replicas returns how many replicas the primary that holds this id has at the moment, none for a store that does not
// know what a replica is.
func (s *Store) Replicas(ctx context.Context, id string) (int, error) {
	conn, err := s.primary(ctx, id)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	text, err := conn.Info(ctx, "replication").Result()
	var reply redis.Error
	if errors.As(err, &reply) && !redis.HasErrorPrefix(err, "NOPERM") {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("keys: count the replicas: %w", readError(ctx, "", err))
	}
	n := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "slave") && strings.Contains(line, "state=online") {
			n++
		}
	}
	return n, nil
}

// WriteAndWait is Write that waits until so many replicas have the change, at most timeout, which must be above 0.
// confirmed is how many have it. An error beside a key means that the change is made and that nobody knows who has it.
func (s *Store) WriteAndWait(ctx context.Context, old, next *Key, replicas int, timeout time.Duration) (k *Key, confirmed int, err error) {
	return s.writeAndWait(ctx, old, dated(old, next), replicas, timeout)
}

func (s *Store) writeAndWait(ctx context.Context, old, next *Key, replicas int, timeout time.Duration) (k *Key, confirmed int, err error) {
	conn, err := s.primary(ctx, old.ID)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	k, err = s.write(ctx, conn, old, next, nil)
	if k == nil {
		return nil, 0, err
	}
	// Below a millisecond Redis would wait for ever.
	n, lost := conn.Wait(ctx, replicas, max(timeout, time.Millisecond)).Result()
	if lost != nil {
		return k, 0, errors.Join(err, fmt.Errorf("keys: wait for replicas: %w", readError(ctx, "", lost)))
	}
	return k, int(n), err
}
