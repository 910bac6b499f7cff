package keys

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// A store without a mark that it has had was emptied: by FLUSHALL, or by a restart without its data.
const (
	markPrefix  = "tg:v1:store:"
	markForm    = "v1"
	markIDBytes = 16
	// clusterMarks are as many as make it sure that a node of a cluster with up to so many masters, of about the same
	// number of slots, has one.
	clusterMarks = 32
	slots        = 16384 // hash slots of a Redis Cluster
)

// mark is "v1:" and a random id and, after an operator has accepted that the store was emptied, ":" and the Unix ms of that
// by the store's own clock.
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

// marks are the keys of a store's marks: one, but some in a cluster, each in another range of slots, of which each node that
// is emptied loses its own.
func (s *Store) marks() []string {
	if _, ok := s.client.(*redis.ClusterClient); !ok {
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

// slotOf is the hash slot of a key, as in the Redis Cluster specification: CRC16 (XMODEM) of its hash tag, if it has one.
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

// sight is what was seen of one mark.
type sight struct {
	mark  mark  // without an id where there is none
	there bool  // a value stands in its place, if only one that is no mark
	at    int64 // Unix ms of the store's clock, before it was read
	err   error // the store did not say
	write error // why the store takes no writes beside the mark; nil if it does, or nobody knows
}

// lookAt reads all marks at the same time, and tries whether the store would take a write.
func (s *Store) lookAt(ctx context.Context, marks []string) []sight {
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

func (s *Store) look(ctx context.Context, key string) sight {
	values, err := s.scripts.look.Run(ctx, s.client, []string{key}).Slice()
	if err != nil && isWrongType(err) {
		return sight{there: true}
	}
	if err != nil {
		return sight{err: readError(ctx, "", err)}
	}
	at, _ := values[0].(int64)
	text, there := values[1].(string)
	return sight{mark: parseMark(text), there: there, at: at}
}

// tryWrite asks for a write that changes nothing: of a key that does not exist, if it exists. Redis refuses it like any other
// when it takes none.
func (s *Store) tryWrite(ctx context.Context, key string) error {
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
func (s *Store) claim(ctx context.Context, key string) sight {
	err := s.client.SetArgs(ctx, key, newMark().String(), redis.SetArgs{Mode: "NX"}).Err()
	if err != nil && !errors.Is(err, redis.Nil) { // Nil: somebody else was faster
		return sight{err: readError(ctx, "", err)}
	}
	return s.look(ctx, key)
}

// AcceptEmpty says that the store, which was emptied or is new, may be used as it is: servers that remember what it was go on
// with it. From now on the keys in it are those of the Hasher's pepper. Errors: ErrPepper for a store that has keys with
// another one; any other means that the store did not answer.
func (s *Store) AcceptEmpty(ctx context.Context, h *Hasher) error {
	stored, found, err := s.pepperText(ctx)
	if err != nil {
		return err
	}
	if fit, _, err := judgePepper(stored, h); found && (err != nil || !fit) {
		apis, err := s.client.SMembers(ctx, apisKey).Result()
		if err != nil {
			return fmt.Errorf("keys: look for keys: %w", readError(ctx, "", err))
		}
		if len(apis) > 0 {
			return fmt.Errorf("%w. There are keys of %s: if nobody needs them, empty the store first (FLUSHDB, on every node)", ErrPepper, strings.Join(apis, ", "))
		}
		found = false
	}
	if !found {
		if err := s.client.Set(ctx, pepperKey, newPepperCheck(h), 0).Err(); err != nil {
			return fmt.Errorf("keys: note the pepper: %w", readError(ctx, "", err))
		}
	}
	for _, key := range s.marks() {
		if err := s.scripts.accept.Run(ctx, s.client, []string{key}, newMark().String()).Err(); err != nil {
			return fmt.Errorf("keys: mark the store: %w", readError(ctx, "", err))
		}
	}
	return nil
}
