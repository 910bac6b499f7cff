package admin

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// errOtherRights says that a key got other rights while its successor was made with the earlier
// ones.
var errOtherRights = errors.New("it has other rights now")

// maxGrace bounds how long a key that a cap counts as one with its successor can go on.
const maxGrace = 90 * 24 * time.Hour

// Rotate makes a successor with the same rights, expiry and counters, and returns it with its
// secret. The key itself stops after grace, or at its own expiry if that is sooner. Errors beside
// the common: a *FieldError for a negative grace, and for a key that is larger than a new one may
// be; ErrFinal, ErrInactive, ErrExpired; a *RotatedError; a *CapError if an earlier key of the same
// line is still in its grace and the cap has no room for three; ErrConflict if others change the
// key without end. A key and a secret beside an error are made and good.
func (m *Manager) Rotate(ctx context.Context, id string, grace time.Duration) (successor *keys.Key, secret string, err error) {
	if grace < 0 || grace > maxGrace {
		return nil, "", &keys.FieldError{Field: "grace", Problem: grace.String() + " is not 0 to " + maxGrace.String()}
	}
	for range store.MaxTries {
		if successor, secret, err = m.rotate(ctx, id, grace); !errors.Is(err, errOtherRights) {
			break
		}
	}
	return successor, secret, err
}

func (m *Manager) rotate(ctx context.Context, id string, grace time.Duration) (successor *keys.Key, secret string, err error) {
	old, err := m.read(ctx, roles.ActionRotate, id)
	if err != nil {
		return nil, "", err
	}
	if err := m.rotatable(old); err != nil {
		return nil, "", err
	}
	prefix, err := m.rules.Prefix(old.API, old.Environment)
	if err != nil {
		return nil, "", err
	}
	secret = keys.NewSecret(prefix)
	next := m.draft(old, secret)
	next.LimitID, next.RotatedFrom = old.LimitID, old.ID
	if err := store.CheckGrowth(nil, next, m.rules); err != nil {
		return nil, "", err
	}
	var limit *store.Cap
	if next.Team != "" {
		if limit, err = m.capOf(next); err != nil {
			return nil, "", err
		}
	}
	if err = m.auditedKey(ctx, roles.ActionRotate, old, next, func(ctx context.Context) error {
		// In this order a crash leaves the old key as it was, and a successor whose secret nobody
		// was told.
		if err := m.store.CreateWithin(ctx, next, limit); err != nil {
			return err
		}
		made, err := m.retire(ctx, old, next.ID, grace)
		if made {
			successor = next
			return err
		}
		if store.IsUncertain(err) {
			return fmt.Errorf("keys: %s may be rotated to %s, whose secret is lost; repair the store, then rotate what is active: %w", old.ID, next.ID, err)
		}
		return errors.Join(err, m.store.Discard(ctx, next))
	}); successor == nil {
		return nil, "", err
	}
	return successor, secret, err
}

func (m *Manager) rotatable(k *keys.Key) error {
	switch {
	case k.Status == keys.Revoked:
		return store.ErrFinal
	case k.RotatedTo != "":
		return &RotatedError{k.ID, k.RotatedTo}
	case k.Expired(m.now()):
		return ErrExpired
	case k.Status != keys.Active:
		return ErrInactive
	}
	return nil
}

// retire gives a key its successor and its end. made says that it has them, whatever the error.
func (m *Manager) retire(ctx context.Context, old *keys.Key, successor string, grace time.Duration) (made bool, err error) {
	for range store.MaxTries {
		next := old.Clone()
		next.RotatedTo, next.UpdatedAt, next.RetiresAt = successor, m.today(), m.today().Add(grace)
		if !old.ExpiresAt.IsZero() && old.ExpiresAt.Before(next.RetiresAt) {
			next.RetiresAt = old.ExpiresAt
		}
		written, err := m.store.Write(ctx, old, next)
		if written != nil || !errors.Is(err, store.ErrConflict) {
			return written != nil, err
		}
		now, err := m.store.Get(ctx, old.ID)
		if err == nil {
			err = m.rotatable(now)
		}
		if err == nil && !sameRights(old, now) {
			err = errOtherRights
		}
		if err != nil {
			return false, fmt.Errorf("keys: %s changed while it was rotated: %w", old.ID, errors.Join(store.ErrConflict, err))
		}
		old = now
	}
	return false, store.ErrConflict
}

// sameRights reports whether two states of one key differ in nothing that a successor has from it.
func sameRights(a, b *keys.Key) bool {
	b = b.Clone()
	b.Version, b.UpdatedAt, b.LastUsed = a.Version, a.UpdatedAt, a.LastUsed
	b.Algorithm, b.Digest, b.Other = a.Algorithm, a.Digest, a.Other
	return reflect.DeepEqual(a, b)
}
