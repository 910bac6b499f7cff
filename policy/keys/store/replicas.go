package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// ErrNoPrimary is for clients of a kind that does not say which server holds a key.
var ErrNoPrimary = errors.New("keys: this kind of client has no single connection to a primary")

// primary returns a connection of its own to the server that holds the record of id. WAIT counts
// the replicas that have what its own connection wrote.
func (s *Store) primary(ctx context.Context, id string) (*redis.Conn, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		return c.Conn(), nil
	case *redis.ClusterClient:
		node, err := c.MasterForKey(ctx, recordKey(id))
		if err != nil {
			return nil, ReadError(ctx, id, err)
		}
		return node.Conn(), nil
	}
	return nil, ErrNoPrimary
}

const (
	// replicasKey is set while the store is known to have replicas: a primary forgets one that is
	// gone.
	replicasKey = "tg:v1:replicas"
	// replicasTTL is how long a store is taken for one that should have replicas after one was last
	// seen.
	replicasTTL = 30 * 24 * time.Hour
)

// Replication is what a primary says of its replicas.
type Replication struct {
	Online   int  // replicas that follow at the moment
	Expected bool // there are, or should be, replicas
}

// Replication returns what is known of the replicas of the primary that holds this id. One is
// expected if the primary knows any, has had one within its repl-backlog-ttl (an hour, if nobody
// has set it), or is told to write only with replicas (min-replicas-to-write), and for 30 days
// after NoteReplicas has seen one. A store that does not know what a replica is has none.
func (s *Store) Replication(ctx context.Context, id string) (r Replication, err error) {
	conn, err := s.primary(ctx, id)
	if err != nil {
		return Replication{}, err
	}
	defer conn.Close()
	text, err := conn.Info(ctx, "replication").Result()
	var reply redis.Error
	if errors.As(err, &reply) && !redis.HasErrorPrefix(err, "NOPERM") {
		return Replication{}, nil
	}
	if err != nil {
		return Replication{}, fmt.Errorf("keys: count the replicas: %w", ReadError(ctx, "", err))
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		isReplica := strings.HasPrefix(line, "slave") && strings.Contains(line, "state=")
		if isReplica && strings.Contains(line, "state=online") {
			r.Online++
		}
		if isReplica || line == "repl_backlog_active:1" || strings.HasPrefix(line, "min_slaves_good_slaves:") {
			r.Expected = true
		}
	}
	if r.Expected {
		return r, nil
	}
	noted, err := s.client.Exists(ctx, replicasKey).Result()
	if err != nil {
		return r, fmt.Errorf("keys: count the replicas: %w", ReadError(ctx, "", err))
	}
	r.Expected = noted > 0
	return r, nil
}

// NoteReplicas writes down that the store has replicas, if it has.
func (s *Store) NoteReplicas(ctx context.Context, id string) error {
	r, err := s.Replication(ctx, id)
	if err != nil || r.Online == 0 {
		return err
	}
	if err := s.client.Set(ctx, replicasKey, r.Online, replicasTTL).Err(); err != nil {
		return fmt.Errorf("keys: note the replicas: %w", ReadError(ctx, "", err))
	}
	return nil
}

// WriteAndWait is Write that waits until so many replicas have the change, at most timeout, which
// must be above 0. confirmed is how many have it. An error beside a key means that the change is
// made and that nobody knows who has it.
func (s *Store) WriteAndWait(ctx context.Context, old, next *keys.Key, replicas int, timeout time.Duration) (k *keys.Key, confirmed int, err error) {
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
		return k, 0, errors.Join(err, fmt.Errorf("keys: wait for replicas: %w", ReadError(ctx, "", lost)))
	}
	return k, int(n), err
}
