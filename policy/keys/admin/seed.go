package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// Seed adds to a store the entries whose ids the store has never seen, and never changes or revives
// one. First each plain secret is replaced by its digest in entries (h may be nil if there is none)
// and everything is checked; an error of that part has written nothing. Errors name the id, and are
// those of Create; added counts what was made before.
func Seed(ctx context.Context, s *store.Store, entries []keyfile.Entry, h *keys.Hasher) (added int, err error) {
	if err := hashEntries(entries, h); err != nil {
		return 0, err
	}
	for i := range entries {
		k := &entries[i].Key
		if err := ctx.Err(); err != nil {
			return added, fmt.Errorf("keys: seed stopped before %s: %w", k.ID, err)
		}
		switch err := s.Create(ctx, k); {
		case err == nil:
			added++
		case !errors.Is(err, store.ErrExists):
			return added, fmt.Errorf("keys: seed %s: %w", k.ID, err)
		}
	}
	return added, nil
}

func hashEntries(entries []keyfile.Entry, h *keys.Hasher) error {
	owner := make(map[keys.Digest]string, len(entries))
	for i := range entries {
		e := &entries[i]
		if e.Plaintext() {
			if h == nil {
				return fmt.Errorf("keys: seed %s: a plain secret and no hasher", e.Key.ID)
			}
			e.Key.Algorithm, e.Key.Digest, e.Secret = keys.AlgorithmHMACSHA256, h.Digest(e.Secret), ""
		}
		if err := e.Key.Validate(); err != nil {
			return fmt.Errorf("keys: seed %s: %w", e.Key.ID, err)
		}
		if first, ok := owner[e.Key.Digest]; ok {
			return fmt.Errorf("keys: seed %s: %w: %s has it too", e.Key.ID, store.ErrSecretTaken, first)
		}
		owner[e.Key.Digest] = e.Key.ID
	}
	return nil
}

// SeedSource says where the entries of a Seed come from.
type SeedSource struct {
	Source string `json:"source,omitempty"` // name of the file or folder
	SHA256 string `json:"sha256,omitempty"` // of its content, hexadecimal
}

// Seed is the function Seed between an intent and an outcome in the audit stream, with counts and
// the file's digest; where the store has all of the entries, nothing is written. Errors: those of
// the function; a *ForbiddenError for all but the operator; ErrNotAudited; ErrOutcomeLost.
func (m *Manager) Seed(ctx context.Context, entries []keyfile.Entry, from SeedSource) (added int, err error) {
	if err := m.who.Check(roles.ActionSeed, "", ""); err != nil {
		return 0, err
	}
	if err := hashEntries(entries, m.hasher); err != nil {
		return 0, err
	}
	missing := 0
	for some := range slices.Chunk(entries, importBatch) {
		ks := make([]*keys.Key, len(some))
		for i := range some {
			ks[i] = &some[i].Key
		}
		n, err := m.store.Unseen(ctx, ks)
		if err != nil {
			return 0, err
		}
		missing += n
	}
	if missing == 0 {
		return 0, nil
	}
	intent := audit.NewEntry(m.who, roles.ActionSeed, "", "")
	if intent.After, err = json.Marshal(struct {
		SeedSource
		Records int `json:"records"`
		New     int `json:"new"`
	}{from, len(entries), missing}); err != nil {
		return 0, err
	}
	id, err := m.audit.Intent(ctx, intent)
	if err != nil {
		return 0, err
	}
	added, err = Seed(ctx, m.store, entries, m.hasher)
	return added, errors.Join(err, m.audit.Outcome(ctx, id, fmt.Sprintf("%s: added %d", audit.ResultOf(err), added)))
}
