package keys

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

// What stands before the id in the place of a secret that leads to no key any more. Such a place is never emptied: else an
// export from before could bring the secret back.
const (
	retired = "former:"  // the key has another hash of the secret since a change of the pepper
	buried  = "deleted:" // the key was deleted
)

// secretPlace is what the store has in the place of a secret.
type secretPlace struct {
	id      string // of the key; "" for an empty place
	former  bool   // the key has, or had, another hash of the secret
	deleted bool   // the key was deleted
}

func parseSecretPlace(text string) secretPlace {
	if id, ok := strings.CutPrefix(text, buried); ok {
		return secretPlace{id: id, deleted: true}
	}
	id, former := strings.CutPrefix(text, retired)
	return secretPlace{id: id, former: former}
}

// places reads the replies to reading the places of secrets. A former place does not learn of the delete of its key, so the
// record is asked. An error means that the store did not answer.
func (s *Store) places(ctx context.Context, replies []*redis.StringCmd) ([]secretPlace, error) {
	all := make([]secretPlace, len(replies))
	var ids []string
	var former []int
	for i, reply := range replies {
		if err := reply.Err(); err != nil && !errors.Is(err, redis.Nil) && !isWrongType(err) {
			return nil, readError(ctx, "", err)
		}
		all[i] = parseSecretPlace(reply.Val())
		if all[i].former {
			ids, former = append(ids, all[i].id), append(former, i)
		}
	}
	if len(former) == 0 {
		return all, nil
	}
	found, err := s.readAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		all[former[i]].deleted = errors.Is(f.err, ErrDeleted)
	}
	return all, nil
}
