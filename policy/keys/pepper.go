package keys

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// ErrPepper says that the keys in the store are hashed with a pepper that the Hasher does not have: none of them would be
// found, and no other server would find those that it adds.
var ErrPepper = errors.New("keys: the keys in the store are hashed with another pepper. Give the one that the servers have, " +
	"or the one before among the older ones. Only if that one is lost, and with it every key: DEL " + pepperKey)

const (
	// pepperKey holds "v1:", a salt and a check of the pepper, both hexadecimal.
	pepperKey   = "tg:v1:pepper"
	pepperForm  = "v1"
	pepperSalt  = 16
	pepperCheck = 4 // few bytes: enough to see a mistake, and many wrong peppers give the same
	// pepperRounds make a guess at the pepper dearer than by the hash of a key whose secret one knows, which takes one.
	pepperRounds = 50_000
)

// pepperSum returns the check of a pepper.
func pepperSum(pepper, salt []byte) []byte {
	sum, err := pbkdf2.Key(sha256.New, string(pepper), append([]byte("tollgate pepper check v1"), salt...), pepperRounds, pepperCheck)
	if err != nil {
		panic(err) // only for lengths that no machine has
	}
	return sum
}

// CheckPepper compares the Hasher's pepper with the one that the keys in the store are hashed with; the first to ask
// says which that is. With adopt a pepper that the Hasher has among its older ones gives way to the current one, which
// changed then is; servers do that, because they know the keys by both. Errors: ErrPepper; any other means that the store
// did not answer. It takes some ten milliseconds.
func (s *Store) CheckPepper(ctx context.Context, h *Hasher, adopt bool) (changed bool, err error) {
	stored, err := s.client.Get(ctx, pepperKey).Result()
	if errors.Is(err, redis.Nil) {
		err = s.client.SetArgs(ctx, pepperKey, newPepperCheck(h), redis.SetArgs{Mode: "NX"}).Err()
		if err == nil {
			return false, nil
		}
		if errors.Is(err, redis.Nil) { // somebody else was faster
			stored, err = s.client.Get(ctx, pepperKey).Result()
		}
	}
	if err != nil && !isWrongType(err) {
		return false, fmt.Errorf("keys: check the pepper: %w", readError(ctx, "", err))
	}
	salt, sum, ok := parsePepperCheck(stored)
	switch {
	case !ok:
		return false, &CorruptError{ID: pepperKey, Err: errors.New("it is not a check of a pepper")}
	case subtle.ConstantTimeCompare(h.pepperSum(current, salt), sum) == 1:
		return false, nil
	}
	for i := range h.older {
		if subtle.ConstantTimeCompare(h.pepperSum(i, salt), sum) != 1 {
			continue
		}
		if !adopt {
			return false, nil
		}
		if err := s.client.Set(ctx, pepperKey, newPepperCheck(h), 0).Err(); err != nil {
			return false, fmt.Errorf("keys: note the pepper: %w", readError(ctx, "", err))
		}
		return true, nil
	}
	return false, ErrPepper
}

func newPepperCheck(h *Hasher) string {
	salt := make([]byte, pepperSalt)
	rand.Read(salt) // never fails: the runtime ends the program instead
	return pepperForm + ":" + hex.EncodeToString(salt) + ":" + hex.EncodeToString(h.pepperSum(current, salt))
}

func parsePepperCheck(text string) (salt, sum []byte, ok bool) {
	form, rest, _ := strings.Cut(text, ":")
	first, second, _ := strings.Cut(rest, ":")
	salt, err1 := hex.DecodeString(first)
	sum, err2 := hex.DecodeString(second)
	return salt, sum, form == pepperForm && errors.Join(err1, err2) == nil && len(salt) == pepperSalt && len(sum) == pepperCheck
}
