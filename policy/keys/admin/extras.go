package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// GrantExtra gives a key more of one limit until a time, beside what it was given before. Extras
// that have ended leave the record then. Errors beside the common: a *FieldError, also for a time
// that is not ahead and for too many extras; what Rules.ValidateExtra says; ErrFinal; ErrConflict.
func (m *Manager) GrantExtra(ctx context.Context, id string, x keys.Extra) (*keys.Key, error) {
	x.Until = x.Until.UTC().Truncate(time.Millisecond)
	return m.editExtras(ctx, id, func(k *keys.Key) error {
		if !x.Until.After(m.now()) {
			return &keys.FieldError{Field: "until", Problem: x.Until.Format(time.RFC3339) + " is not ahead"}
		}
		if err := m.rules.ValidateExtra(k, x); err != nil {
			return err
		}
		k.Extras = append(k.Extras, x)
		return nil
	})
}

// TakeExtras takes from a key all that it was given more of one limit. Errors beside the common: a
// *FieldError if that is nothing; ErrFinal; ErrConflict.
func (m *Manager) TakeExtras(ctx context.Context, id, limit string) (*keys.Key, error) {
	return m.editExtras(ctx, id, func(k *keys.Key) error {
		of := func(x keys.Extra) bool { return x.Name == limit }
		if !slices.ContainsFunc(k.Extras, of) {
			return &keys.FieldError{Field: "extras", Problem: "the key has nothing more of " + keys.Quote(limit)}
		}
		k.Extras = slices.DeleteFunc(k.Extras, of)
		return nil
	})
}

func (m *Manager) editExtras(ctx context.Context, id string, alter func(k *keys.Key) error) (*keys.Key, error) {
	return m.edit(ctx, id, edit{
		action: roles.ActionGrantExtra, write: m.write,
		alter: func(k *keys.Key) error {
			if k.Status == keys.Revoked {
				return store.ErrFinal
			}
			k.Extras = slices.DeleteFunc(k.Extras, func(x keys.Extra) bool { return !m.now().Before(x.Until) })
			return alter(k)
		},
	})
}

// ResetLimits has reset change what is counted for a key, between two entries of the audit stream;
// before is what is counted, as JSON. Servers give back what they hold before that, and forget what
// they refused after it. Errors beside the common: those of reset.
func (m *Manager) ResetLimits(ctx context.Context, id string, before json.RawMessage, reset func(context.Context) error) error {
	k, err := m.read(ctx, roles.ActionResetLimit, id)
	if err != nil {
		return err
	}
	entry := audit.NewEntry(m.who, roles.ActionResetLimit, k.API, k.Team, k.ID)
	entry.Before = before
	return m.audit.Do(ctx, entry, func(ctx context.Context) error {
		if err := m.store.PublishReset(ctx, k); err != nil {
			return err
		}
		if err := reset(ctx); err != nil {
			return err
		}
		if err := m.store.PublishReset(ctx, k); err != nil {
			return fmt.Errorf("keys: it is reset, but servers were not told: they may go on refusing for some seconds: %w", err)
		}
		return nil
	})
}
