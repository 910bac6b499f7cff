package standing

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// What a store can say of a pepper. Test with errors.Is.
var (
	// ErrPepper says that the keys in the store are hashed with a pepper that the Hasher does not
	// have: none of them would be found, and no other server would find those that it adds.
	ErrPepper = errors.New("keys: the keys in the store are hashed with another pepper. Give the one that the servers have, " +
		"or the one before among the older ones")
	// ErrUnclaimed says that no server has said yet with which pepper the keys of the store are
	// hashed.
	ErrUnclaimed = errors.New("keys: no server has used this store yet, or it was emptied. Start tollgate serve first, which says with " +
		"which pepper keys are hashed; if it is meant to be empty, `tollgate store accept-empty` says so too")
)

const (
	// pepperKey holds "v1:", a salt and a check of the pepper, both hexadecimal.
	pepperKey  = "tg:v1:pepper"
	pepperForm = "v1"
	pepperSalt = 16
)

// CheckPepper compares the Hasher's peppers with the one that the keys in the store are hashed
// with, and writes nothing: it is for those who do not serve. Errors: ErrPepper; ErrUnclaimed; a
// *CorruptError; any other means that the store did not answer. It takes some ten milliseconds.
func CheckPepper(ctx context.Context, client redis.UniversalClient, h *keys.Hasher) error {
	stored, found, err := checks{client}.pepperText(ctx)
	if err != nil {
		return err
	}
	if !found {
		return ErrUnclaimed
	}
	fit, _, err := judgePepper(stored, h)
	if err == nil && !fit {
		err = ErrPepper
	}
	return err
}

// checks are what stands in a store beside its keys: the check of their pepper, and marks.
type checks struct{ client redis.UniversalClient }

// pepperText reads the check. What is no text is one that no pepper fits.
func (s checks) pepperText(ctx context.Context) (text string, found bool, err error) {
	text, err = s.client.Get(ctx, pepperKey).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", false, nil
	case err != nil && !store.IsWrongType(err):
		return "", false, fmt.Errorf("keys: check the pepper: %w", store.ReadError(ctx, "", err))
	}
	return text, true, nil
}

// judgePepper reports whether a check is that of one of the Hasher's peppers, and whether of an
// older one. The error is a *CorruptError.
func judgePepper(stored string, h *keys.Hasher) (fit, older bool, err error) {
	salt, sum, ok := parsePepperCheck(stored)
	switch {
	case !ok:
		return false, false, &keys.CorruptError{ID: pepperKey, Err: errors.New("it is not a check of a pepper")}
	case subtle.ConstantTimeCompare(h.PepperSum(keys.CurrentMethod, salt), sum) == 1:
		return true, false, nil
	}
	for i := range h.Older() {
		if subtle.ConstantTimeCompare(h.PepperSum(i, salt), sum) == 1 {
			return true, true, nil
		}
	}
	return false, false, nil
}

func newPepperCheck(h *keys.Hasher) string {
	salt := make([]byte, pepperSalt)
	rand.Read(salt) // never fails: the runtime ends the program instead
	return pepperForm + ":" + hex.EncodeToString(salt) + ":" + hex.EncodeToString(h.PepperSum(keys.CurrentMethod, salt))
}

func parsePepperCheck(text string) (salt, sum []byte, ok bool) {
	form, rest, _ := strings.Cut(text, ":")
	first, second, _ := strings.Cut(rest, ":")
	salt, err1 := hex.DecodeString(first)
	sum, err2 := hex.DecodeString(second)
	return salt, sum, form == pepperForm && errors.Join(err1, err2) == nil && len(salt) == pepperSalt && len(sum) == keys.PepperSumBytes
}
