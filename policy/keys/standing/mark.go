package standing

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys/store"
)

//go:embed look.lua
var lookSource string

//go:embed accept.lua
var acceptSource string

var (
	lookScript   = redis.NewScript(lookSource)
	acceptScript = redis.NewScript(acceptSource)
)

// A store without a mark that it has had was emptied: by FLUSHALL, or by a restart without its
// data.
const (
	markPrefix  = "tg:v1:store:"
	markForm    = "v1"
	markIDBytes = 16
	// clusterMarks are as many as make it sure that a node of a cluster with up to so many masters,
	// of about the same number of slots, has one.
	clusterMarks = 32
)

// mark is "v1:" and a random id and, after an operator has accepted that the store was emptied, ":"
// and the Unix ms of that by the store's own clock.
type mark struct {
	id       string
	accepted int64
}

func newMark() mark {
	id := make([]byte, markIDBytes)
	rand.Read(id) // never fails: the runtime ends the program instead
	return mark{id: hex.EncodeToString(id)}
}

func (m mark) String() string {
	if m.accepted == 0 {
		return markForm + ":" + m.id
	}
	return markForm + ":" + m.id + ":" + strconv.FormatInt(m.accepted, 10)
}

// parseMark reads a mark. What is none is a mark of no server's: its id is "".
func parseMark(text string) mark {
	form, rest, _ := strings.Cut(text, ":")
	id, at, accepted := strings.Cut(rest, ":")
	if raw, err := hex.DecodeString(id); form != markForm || err != nil || len(raw) != markIDBytes {
		return mark{}
	}
	m := mark{id: id}
	if accepted {
		var err error
		if m.accepted, err = strconv.ParseInt(at, 10, 64); err != nil {
			return mark{}
		}
	}
	return m
}

// marksOf returns the Redis keys of a store's marks: one, but some in a cluster, each in another
// range of slots, of which each node that is emptied loses its own.
func marksOf(s *store.Store) []string {
	if !s.IsCluster() {
		return []string{markPrefix + "{0}"}
	}
	keys := make([]string, clusterMarks)
	for tag, missing := 0, clusterMarks; missing > 0; tag++ {
		key := markPrefix + "{" + strconv.Itoa(tag) + "}"
		if i := slotOf(key) * clusterMarks / slots; keys[i] == "" {
			keys[i] = key
			missing--
		}
	}
	return keys
}

// sight is what was seen of one mark.
type sight struct {
	mark  mark  // without an id where there is none
	there bool  // a value stands in its place, if only one that is no mark
	at    int64 // Unix ms of the store's clock, before it was read
	err   error // the store did not say
	write error // why the store takes no writes beside the mark; nil if it does, or nobody knows
}

// lookAt reads all marks at the same time, and tries whether the store would take a write.
func (s checks) lookAt(ctx context.Context, marks []string) []sight {
	seen := make([]sight, len(marks))
	var work sync.WaitGroup
	for i, key := range marks {
		work.Go(func() {
			seen[i] = s.look(ctx, key)
			if seen[i].err == nil {
				seen[i].write = s.tryWrite(ctx, key+":probe")
			}
		})
	}
	work.Wait()
	return seen
}

func (s checks) look(ctx context.Context, key string) sight {
	values, err := lookScript.Run(ctx, s.client, []string{key}).Slice()
	if err != nil && store.IsWrongType(err) {
		return sight{there: true}
	}
	if err != nil {
		return sight{err: store.ReadError(ctx, "", err)}
	}
	at, _ := values[0].(int64)
	text, there := values[1].(string)
	return sight{mark: parseMark(text), there: there, at: at}
}

// tryWrite asks for a write that changes nothing: of a key that does not exist, if it exists. Redis
// refuses it like any other when it takes none.
func (s checks) tryWrite(ctx context.Context, key string) error {
	err := s.client.SetArgs(ctx, key, "", redis.SetArgs{Mode: "XX"}).Err()
	if refusesWrites(err) {
		return err
	}
	return nil // whatever else it is, the reads tell of it
}

// refusesWrites reports whether an error says that Redis takes no writes, and answers otherwise.
func refusesWrites(err error) bool {
	for _, prefix := range []string{"OOM", "READONLY", "MISCONF", "NOREPLICAS"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}

// claim writes a mark into an empty place, and returns what stands there then.
func (s checks) claim(ctx context.Context, key string) sight {
	err := s.client.SetArgs(ctx, key, newMark().String(), redis.SetArgs{Mode: "NX"}).Err()
	if err != nil && !errors.Is(err, redis.Nil) { // Nil: somebody else was faster
		return sight{err: store.ReadError(ctx, "", err)}
	}
	return s.look(ctx, key)
}

// CheckClaimed returns an ErrUnclaimed for a store without the marks that servers give it: none of
// this version has used it, or it was emptied. Any other error means that the store did not answer.
func CheckClaimed(ctx context.Context, client redis.UniversalClient) error {
	for _, s := range (checks{client}).lookAt(ctx, marksOf(store.New(client))) {
		if s.err != nil || s.there {
			return s.err
		}
	}
	return ErrUnclaimed
}

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// slotOf is the hash slot of a key, as in the Redis Cluster specification: CRC16 (XMODEM) of its
// hash tag, if it has one.
func slotOf(key string) int {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slots
}
