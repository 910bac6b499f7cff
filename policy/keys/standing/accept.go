package standing

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// AcceptEmpty says that the store, which was emptied or is new, may be used as it is: servers that
// remember what it was go on with it. From now on the keys in it are those of the Hasher's pepper.
// Errors: ErrPepper for a store that has keys with another one; any other means that the store did
// not answer.
func AcceptEmpty(ctx context.Context, client redis.UniversalClient, h *keys.Hasher) error {
	c, s := checks{client}, store.New(client)
	stored, found, err := c.pepperText(ctx)
	if err != nil {
		return err
	}
	if fit, _, err := judgePepper(stored, h); found && (err != nil || !fit) {
		apis, err := s.APIs(ctx)
		if err != nil {
			return err
		}
		if len(apis) > 0 {
			return fmt.Errorf("%w. There are keys of %s: if nobody needs them, empty the store first (FLUSHDB, on every node)", ErrPepper, strings.Join(apis, ", "))
		}
		found = false
	}
	if !found {
		if err := client.Set(ctx, pepperKey, newPepperCheck(h), 0).Err(); err != nil {
			return fmt.Errorf("keys: note the pepper: %w", store.ReadError(ctx, "", err))
		}
	}
	for _, key := range marksOf(s) {
		if err := acceptScript.Run(ctx, c.client, []string{key}, newMark().String()).Err(); err != nil {
			return fmt.Errorf("keys: mark the store: %w", store.ReadError(ctx, "", err))
		}
	}
	return nil
}
