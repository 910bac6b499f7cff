package admin

import (
	"context"
	"errors"

	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// ErrNotBlocked says that there is nothing to unblock.
var ErrNotBlocked = errors.New("keys: the client is not blocked")

// BlockClient refuses all tokens of a client from now on, those too that servers have verified
// before, as Revoke ends a key: errors beside the common are those of Revoke, and a *FieldError for
// a name that no client has. It needs no policy. The client need not have been seen before.
func (m *Manager) BlockClient(ctx context.Context, api string, c keys.Client) (*keys.Key, error) {
	var unconfirmed error
	k, err := m.editClient(ctx, api, c, edit{
		action: roles.ActionBlockClient, always: true,
		alter: func(k *keys.Key) error { k.Status = keys.Inactive; return nil },
		write: func(ctx context.Context, old, next *keys.Key) (k *keys.Key, err error) {
			if old == nil { // it counts from here; what is confirmed is the second change
				if err := m.store.Create(ctx, next); err != nil {
					return nil, err
				}
				old = next
			}
			k, unconfirmed, err = m.revoke(ctx, old, next)
			return k, err
		},
	})
	if k != nil {
		err = errors.Join(unconfirmed, m.store.AwaitServers(ctx, k.ID, m.wait), err)
	}
	return k, err
}

// UnblockClient takes tokens of a client again. Errors beside the common: ErrNotBlocked.
func (m *Manager) UnblockClient(ctx context.Context, api string, c keys.Client) (*keys.Key, error) {
	return m.editClient(ctx, api, c, edit{
		action: roles.ActionUnblockClient, write: m.writeClient,
		alter: func(k *keys.Key) error {
			if k.Status != keys.Inactive {
				return ErrNotBlocked
			}
			k.Status = keys.Active
			return nil
		},
	})
}

// PlanClient gives a client a plan of its own, before whatever its tokens claim; "" takes it away,
// so that these and the policy count again. Errors beside the common: a *FieldError; what
// Rules.ValidateKey says.
func (m *Manager) PlanClient(ctx context.Context, api string, c keys.Client, plan string) (*keys.Key, error) {
	return m.editClient(ctx, api, c, edit{
		action: roles.ActionPlanClient, write: m.writeClient,
		alter: func(k *keys.Key) error { k.Plan = plan; return nil },
	})
}

// LimitClient changes the size of limits of a client's own plan for it. Errors beside the common: a
// *FieldError; what Rules.ValidateKey and ValidateLimits say.
func (m *Manager) LimitClient(ctx context.Context, api string, c keys.Client, changes []LimitChange) (*keys.Key, error) {
	return m.editClient(ctx, api, c, edit{
		action: roles.ActionLimitClient, write: m.writeClient,
		alter: func(k *keys.Key) error {
			p := Patch{Overrides: changes}
			return p.apply(k)
		},
	})
}

// Client returns the record of a client, with LastUsed; ErrNoKey if it has none.
func (m *Manager) Client(ctx context.Context, api string, c keys.Client) (*keys.Key, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return m.ClientByID(ctx, c.RecordID(api))
}

// ClientByID is Client by the id of the record.
func (m *Manager) ClientByID(ctx context.Context, id string) (*keys.Key, error) {
	if err := m.who.Check(roles.ActionViewClient, "", ""); err != nil {
		return nil, err
	}
	k, err := m.store.Get(ctx, id)
	if err == nil && !k.IsClient() {
		return nil, store.ErrNoKey
	}
	return k, err
}

// Clients is List of the records of clients: of those that were blocked or given something, and
// not of all that present tokens.
func (m *Manager) Clients(ctx context.Context, f store.Filter, cursor string, limit int) ([]*keys.Key, string, error) {
	if err := m.who.Check(roles.ActionViewClient, f.API, ""); err != nil {
		return nil, "", err
	}
	f.Clients = true
	return m.store.List(ctx, f, cursor, limit)
}

// editClient makes a change on what stands of a client, which may be nothing; again if somebody
// else was faster.
func (m *Manager) editClient(ctx context.Context, api string, c keys.Client, e edit) (*keys.Key, error) {
	if err := m.who.Check(e.action, api, ""); err != nil {
		return nil, err
	}
	if err := errors.Join(c.Validate(), apiError(api)); err != nil {
		return nil, err
	}
	for range store.MaxTries {
		old, err := m.store.Get(ctx, c.RecordID(api))
		switch {
		case errors.Is(err, store.ErrNoKey) && !errors.Is(err, store.ErrDeleted):
			old = nil
		case err != nil:
			return nil, err
		}
		written, err := m.editClientOnce(ctx, old, m.newClient(api, c), e)
		if written != nil || !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) {
			return written, err
		}
	}
	return nil, store.ErrConflict
}

func apiError(api string) error {
	if problem := keys.APIProblem(api); problem != "" {
		return &keys.FieldError{Field: "api", Problem: problem}
	}
	return nil
}

// editClientOnce changes old, or makes the record of a client that has none: fresh.
func (m *Manager) editClientOnce(ctx context.Context, old, fresh *keys.Key, e edit) (written *keys.Key, err error) {
	next := fresh
	if old != nil {
		next = old.Clone()
	}
	if err := e.alter(next); err != nil {
		return nil, err
	}
	if old != nil && !e.always && old.Status == next.Status && sameLimits(old, next) {
		return old, nil
	}
	next.UpdatedAt = m.today()
	if err := m.checkClient(old, next); err != nil {
		return nil, err
	}
	err = m.auditedKey(ctx, e.action, old, next, func(ctx context.Context) error {
		var err error
		written, err = e.write(ctx, old, next)
		return err
	})
	return written, err
}

func (m *Manager) newClient(api string, c keys.Client) *keys.Key {
	k := keys.NewClient(api, c)
	k.Digest = m.hasher.Digest(c.Lookup(api))
	k.CreatedBy, k.CreatedAt = m.who.Who(), m.today()
	k.AnchorDay = k.CreatedAt.Day()
	return k
}

// checkClient asks the policy only about what it has to say: to block needs none.
func (m *Manager) checkClient(old, next *keys.Key) error {
	if err := next.Validate(); err != nil {
		return err
	}
	if err := textSecret(m.rules, old, next, ""); err != nil {
		return err
	}
	if err := store.CheckGrowth(old, next, m.rules); err != nil {
		return err
	}
	before := keys.NewClient(next.API, next.Client)
	if old != nil {
		before = old
	}
	if next.Plan == "" && len(next.Limits) > 0 {
		return &keys.FieldError{Field: "plan", Problem: "is none of the client's own, and limits of its own are those of such a plan"}
	}
	if sameLimits(before, next) || next.Plan == "" { // then its tokens or the issuer say which
		return nil
	}
	if err := m.rules.ValidateKey(next); err != nil {
		return err
	}
	return m.rules.ValidateLimits(next)
}

// writeClient writes what stands of a client, or its first record.
func (m *Manager) writeClient(ctx context.Context, old, next *keys.Key) (*keys.Key, error) {
	if old != nil {
		return m.store.Write(ctx, old, next)
	}
	if err := m.store.Create(ctx, next); err != nil {
		return nil, err
	}
	return next, nil
}
