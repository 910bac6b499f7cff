// Package store keeps API keys, and the teams and members that own them, in Redis. It finds a key
// by the digest of its secret, writes each change and its message to the servers in one step, and
// repairs what an interrupted change left behind.
package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/connect/nodes"
	"tollgate/policy/keys"
)

// What a look-up or a create can find. Test with errors.Is.
var (
	ErrExists      = errors.New("keys: the id is already in use")
	ErrSecretTaken = errors.New("keys: the secret belongs to another key")
	// ErrSecretDeleted is an ErrSecretTaken.
	ErrSecretDeleted = fmt.Errorf("%w: one that was deleted, whose secret never comes back", ErrSecretTaken)
)

// Store keeps key records in Redis: a record as JSON at tg:v1:key:{<id>}, and its id at
// tg:v1:secret:<hex digest>. A deleted key leaves a record without details, and "deleted:<id>" in
// the place of its secret, so that neither is used again; a key that was rehashed leaves
// "former:<id>" in the place of the earlier digest. Beside them are tg:v1:used:{<id>}, the Unix
// second of the last use; the lists of ids tg:v1:index:{<api>} and tg:v1:index:{<api>/<team>}, the
// set of APIs tg:v1:apis, and tg:v1:team:{<api>/<team>}, which says of each key of a team whether
// it counts under a Cap. It is safe for concurrent use. It needs Redis 7.0 or later, alone, behind
// Sentinel or as a cluster.
type Store struct {
	client  redis.UniversalClient
	scripts scripts
	seed    maphash.Seed // of the sums of records
	nodeOf  func(key string) string
}

// New returns a Store on c, which the caller owns. Build c with connect.Open: with
// ContextTimeoutEnabled, else go-redis bounds a read that is under way by its own ReadTimeout and
// not by the deadline of the context; and so that each command of a pipeline tells how it went,
// else one that was never sent looks like an empty answer.
func New(c redis.UniversalClient) *Store {
	return &Store{client: c, scripts: newScripts(), seed: maphash.MakeSeed(), nodeOf: nodes.Of(c)}
}

// IsCluster reports whether the store is a cluster, whose nodes answer, or not, each for itself.
func (s *Store) IsCluster() bool {
	_, cluster := s.client.(*redis.ClusterClient)
	return cluster
}

func recordKey(id string) string          { return "tg:v1:key:{" + id + "}" }
func secretKey(digest keys.Digest) string { return "tg:v1:secret:" + digest.Hex() }

// Lookup returns the record of the key whose secret has the digest d, whatever its status. Errors:
// ErrUnknown; a *CorruptError; any other error means that the store did not answer, and wraps ctx's
// error if that is why.
func (s *Store) Lookup(ctx context.Context, d keys.Digest) (*keys.Key, error) {
	r := s.LookupMany(ctx, []LookupRequest{{Digest: d}}, nil)[0]
	return r.Key, r.Err
}

// LookupResult is what the store said of one secret: a key, or an error as Lookup has it.
type LookupResult struct {
	Key        *keys.Key
	RecordHash uint64 // never 0
	Unchanged  bool   // the record is the one that was asked about, and was not decoded again
	Err        error
	// Absent is the Redis key that was missing, if that is why there is an error: a caller who
	// doubts that the store is complete asks about it. Else "".
	Absent string
}

// LookupRequest is a secret, by its digest, and the key that it belonged to when it was last looked
// up, "" if it was not, with the hash that its record had; 0 for a record that is to be decoded in
// any case.
type LookupRequest struct {
	Digest     keys.Digest
	ID         string
	RecordHash uint64
}

// get carries out gets in one round trip to each node that has some of what they ask for.
func (s *Store) get(ctx context.Context, b *connect.Breaker, gets []*redis.StringCmd) {
	if s.nodeOf == nil {
		s.getFrom(ctx, b, "", gets)
		return
	}
	var work sync.WaitGroup
	for node, gets := range s.byNode(gets) {
		work.Go(func() { s.getFrom(ctx, b, node, gets) })
	}
	work.Wait()
}

// getFrom is a round trip to one node, which the breaker counts once, however many gets there are.
func (s *Store) getFrom(ctx context.Context, b *connect.Breaker, node string, gets []*redis.StringCmd) {
	err := b.Do(connect.LookUp, node, func() error {
		s.pipeline(ctx, gets)
		for _, get := range gets {
			if !connect.IsStoreFailure(get.Err()) {
				return nil
			}
		}
		return gets[0].Err()
	})
	if errors.Is(err, connect.ErrStoreDown) {
		for _, get := range gets {
			get.SetErr(err)
		}
	}
}

// pipeline carries out GETs in one round trip, each with its own error.
func (s *Store) pipeline(ctx context.Context, gets []*redis.StringCmd) {
	if len(gets) == 1 {
		_ = s.client.Process(ctx, gets[0])
		return
	}
	p := s.client.Pipeline()
	for _, get := range gets {
		_ = p.Process(ctx, get) // it only queues
	}
	_, _ = p.Exec(ctx) // its error is in the commands: connect.Open sees to that
}

// byNode parts gets by the nodes that they are for. A pipeline for several would end with the
// slowest of them, and where one does not answer, go-redis gives its error to all.
func (s *Store) byNode(gets []*redis.StringCmd) map[string][]*redis.StringCmd {
	parts := make(map[string][]*redis.StringCmd)
	for _, get := range gets {
		node := s.nodeOf(get.Args()[1].(string))
		parts[node] = append(parts[node], get)
	}
	return parts
}

// LookupMany looks up many secrets, each with its own error: in one round trip to each node those
// that still belong to the key that they are known for, the others in two. The breaker, which may
// be nil, is around each of them.
func (s *Store) LookupMany(ctx context.Context, list []LookupRequest, b *connect.Breaker) []LookupResult {
	links, records := make([]*redis.StringCmd, len(list)), make([]*redis.StringCmd, len(list))
	gets := make([]*redis.StringCmd, 0, 2*len(list))
	for i, o := range list {
		links[i] = redis.NewStringCmd(ctx, "get", secretKey(o.Digest))
		gets = append(gets, links[i])
		if o.ID != "" {
			records[i] = redis.NewStringCmd(ctx, "get", recordKey(o.ID))
			gets = append(gets, records[i])
		}
	}
	s.get(ctx, b, gets)
	out := make([]LookupResult, len(list))
	var moved []LookupRequest
	var places []int // of moved in list
	for i, o := range list {
		switch id, err := linkOf(ctx, links[i]); {
		case err != nil:
			out[i].Err = err
		case id == o.ID:
			out[i] = s.recordOf(ctx, o, records[i])
		default:
			moved, places = append(moved, LookupRequest{Digest: o.Digest, ID: id}), append(places, i)
		}
	}
	for i, r := range s.follow(ctx, moved, b) {
		out[places[i]] = r
	}
	for i := range out {
		if errors.Is(out[i].Err, keys.ErrUnknown) {
			out[i].Absent = secretKey(list[i].Digest)
		}
	}
	return out
}

// follow reads the records of keys to which secrets were just seen to lead.
func (s *Store) follow(ctx context.Context, list []LookupRequest, b *connect.Breaker) []LookupResult {
	if len(list) == 0 {
		return nil
	}
	records := make([]*redis.StringCmd, len(list))
	for i, o := range list {
		records[i] = redis.NewStringCmd(ctx, "get", recordKey(o.ID))
	}
	s.get(ctx, b, records)
	out := make([]LookupResult, len(list))
	for i, o := range list {
		out[i] = s.recordOf(ctx, o, records[i])
	}
	return out
}

// linkOf reads whose a secret is.
func linkOf(ctx context.Context, link *redis.StringCmd) (id string, err error) {
	id, err = link.Result()
	if errors.Is(err, redis.Nil) {
		return "", keys.ErrUnknown
	}
	if err != nil {
		return "", ReadError(ctx, "", err)
	}
	if p := parseSecretPlace(id); p.Former || p.Deleted {
		return "", keys.ErrUnknown
	}
	if keys.IDProblem(id) != "" {
		return "", &keys.CorruptError{Err: errors.New("the secret leads to something that is not an id")}
	}
	return id, nil
}

// recordOf reads the record of o.id, to which the secret with the digest leads.
func (s *Store) recordOf(ctx context.Context, o LookupRequest, reply *redis.StringCmd) LookupResult {
	data, err := reply.Bytes()
	if errors.Is(err, redis.Nil) {
		return LookupResult{Err: &keys.CorruptError{ID: o.ID, Err: errors.New("it is missing")}, Absent: recordKey(o.ID)}
	}
	if err != nil {
		return LookupResult{Err: ReadError(ctx, o.ID, err)}
	}
	r := LookupResult{RecordHash: max(maphash.Bytes(s.seed, data), 1)}
	if r.Unchanged = r.RecordHash == o.RecordHash; r.Unchanged {
		return r
	}
	r.Key, r.Err = decodeRecordOf(o, data)
	return r
}

func decodeRecordOf(o LookupRequest, data []byte) (*keys.Key, error) {
	k, err := decodeRecord(data)
	switch {
	case err != nil:
	case k.ID != o.ID:
		err = errors.New("it holds another id")
	case k.IsTombstone():
		return nil, keys.ErrUnknown // what a delete leaves for a moment if something else made the way again
	case !k.AnswersTo(o.Digest):
		err = errors.New("it belongs to another secret")
	default:
		return k, nil
	}
	return nil, &keys.CorruptError{ID: o.ID, Err: err}
}

// ReadError tells a value that Redis holds under a wrong type, which concerns one key, from a store
// that does not answer, which concerns all.
func ReadError(ctx context.Context, id string, err error) error {
	if IsWrongType(err) {
		return &keys.CorruptError{ID: id, Err: errors.New("it is not a string")}
	}
	if cause := ctxError(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("keys: store: %w: %w", cause, err)
	}
	return fmt.Errorf("keys: store: %w", err)
}

// ctxError also sees a deadline that has passed but whose timer has not run yet: the socket's own
// deadline is the same instant and can be first.
func ctxError(ctx context.Context) error {
	if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
