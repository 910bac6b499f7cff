package store

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// What stands before the id in the place of a secret that leads to no key any more. Such a place is
// never emptied: else an export from before could bring the secret back.
const (
	retired      = "former:"  // the key has another hash of the secret since a change of the pepper
	deletedPlace = "deleted:" // the key was deleted
)

// SecretPlace is what the store has in the place of a secret.
type SecretPlace struct {
	ID      string // of the key; "" for an empty place, and for one that holds something else
	Former  bool   // the key has, or had, another hash of the secret
	Deleted bool   // the key was deleted
	Empty   bool   // nothing stands there
}

func parseSecretPlace(text string) SecretPlace {
	if id, ok := strings.CutPrefix(text, deletedPlace); ok {
		return SecretPlace{ID: id, Deleted: true}
	}
	id, former := strings.CutPrefix(text, retired)
	return SecretPlace{ID: id, Former: former}
}

// SecretPlaces reads the places of secrets, by their digests, in one round trip, and in a second
// one what became of the keys that had another hash: such a place does not learn of the delete of
// its key. An error means that the store did not answer.
func (s *Store) SecretPlaces(ctx context.Context, digests []keys.Digest) ([]SecretPlace, error) {
	replies := make([]*redis.StringCmd, len(digests))
	s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, d := range digests {
			replies[i] = p.Get(ctx, secretKey(d))
		}
		return nil
	})
	all := make([]SecretPlace, len(replies))
	var ids []string
	var former []int
	for i, reply := range replies {
		err := reply.Err()
		if err != nil && !errors.Is(err, redis.Nil) && !IsWrongType(err) {
			return nil, ReadError(ctx, "", err)
		}
		all[i] = parseSecretPlace(reply.Val())
		all[i].Empty = errors.Is(err, redis.Nil)
		if all[i].Former {
			ids, former = append(ids, all[i].ID), append(former, i)
		}
	}
	if len(former) == 0 {
		return all, nil
	}
	found, err := s.ReadAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		all[former[i]].Deleted = errors.Is(f.Err, ErrDeleted)
	}
	return all, nil
}
