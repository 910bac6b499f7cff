package admin

import (
	"context"
	"errors"
	"strings"

	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// VerifyStatus is what Verify says about a secret.
type VerifyStatus string

// All that Verify can say, with the first that applies.
const (
	VerifyMalformed VerifyStatus = "malformed" // it cannot be the secret of a key
	VerifyUnknown   VerifyStatus = "unknown"   // no key has it, or only a deleted one had
	VerifyRevoked   VerifyStatus = "revoked"
	VerifyInactive  VerifyStatus = "inactive"
	VerifyRetired   VerifyStatus = "retired" // its grace after a rotation is over
	VerifyExpired   VerifyStatus = "expired"
	VerifyActive    VerifyStatus = "active"
)

// Verify says which key a secret belongs to and what state that is in. Spaces and quotes around the
// secret are taken off, here and nowhere else. The key is nil for VerifyMalformed and
// VerifyUnknown.
func (m *Manager) Verify(ctx context.Context, secret string) (*keys.Key, VerifyStatus, error) {
	secret = strings.Trim(secret, " \t\r\n\"'`“”‘’")
	if !m.who.Operator {
		// An actor that may not see the team's own keys may see none, whatever the secret.
		if err := m.who.Check(roles.ActionView, m.who.API, m.who.Team); err != nil {
			return nil, "", err
		}
	}
	if keys.SecretProblem(secret) != "" {
		return nil, VerifyMalformed, nil
	}
	k, err := m.lookup(ctx, secret)
	if errors.Is(err, keys.ErrUnknown) {
		return nil, VerifyUnknown, nil
	}
	if err != nil {
		return nil, "", err
	}
	if !m.who.Sees(k) {
		return nil, VerifyUnknown, nil
	}
	// The record once more, with its last use.
	if k, err = m.store.Get(ctx, k.ID); errors.Is(err, store.ErrNoKey) {
		return nil, VerifyUnknown, nil
	}
	if err != nil {
		return nil, "", err
	}
	return k, m.verifyStatus(k), nil
}

// lookup asks for the secret by all the methods that the hasher knows.
func (m *Manager) lookup(ctx context.Context, secret string) (*keys.Key, error) {
	k, err := m.store.Lookup(ctx, m.hasher.Digest(secret))
	for i := 0; errors.Is(err, keys.ErrUnknown) && i < m.hasher.Older(); i++ {
		k, err = m.store.Lookup(ctx, m.hasher.OlderDigest(i, secret))
	}
	if err == nil && k.Status == keys.Deleted {
		return nil, keys.ErrUnknown
	}
	return k, err
}

func (m *Manager) verifyStatus(k *keys.Key) VerifyStatus {
	now := m.now()
	switch {
	case k.Status == keys.Revoked:
		return VerifyRevoked
	case k.Status != keys.Active:
		return VerifyInactive
	case !k.RetiresAt.IsZero() && !now.Before(k.RetiresAt):
		return VerifyRetired
	case k.Expired(now):
		return VerifyExpired
	}
	return VerifyActive
}
