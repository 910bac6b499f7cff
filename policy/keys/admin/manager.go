// Package admin changes keys, teams and members for one actor. It asks the table of roles and the
// policy first, and puts each change between two entries of the audit stream.
package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// What a change of a key can meet. Test with errors.Is.
var (
	ErrExpired     = errors.New("keys: the key has expired")
	ErrInactive    = errors.New("keys: the key is inactive")
	ErrRotated     = errors.New("keys: the key was rotated already") // what every *RotatedError is
	ErrUnconfirmed = errors.New("keys: the change is made, but no replica of the store has confirmed it in time")
)

// RotatedError says that a key has a successor already.
type RotatedError struct{ ID, To string }

// Error names both keys.
func (e *RotatedError) Error() string { return ErrRotated.Error() + ": " + e.ID + " to " + e.To }

// Is makes errors.Is find ErrRotated.
func (e *RotatedError) Is(target error) bool { return target == ErrRotated }

// Manager changes keys for one actor: it checks the role, the policy and the caps, and writes each
// change to the audit stream. It is safe for concurrent use. Errors of all methods: a
// *ForbiddenError; ErrNotAudited and ErrOutcomeLost; ErrNoKey where there is an id; a
// *CorruptError; any other than those named means that the store did not answer, and that the
// change may be made or not.
type Manager struct {
	store    *store.Store
	hasher   *keys.Hasher
	rules    keys.Rules
	audit    *audit.Stream
	who      roles.Actor
	now      func() time.Time
	replicas int
	wait     time.Duration
	noted    sync.Once // whether the store has replicas
	bare     bool      // plain secrets of files need no pepper
	id       string    // of the next new key; empty: a random one
}

// NewManager returns a Manager for who. None of the arguments may be nil.
func NewManager(s *store.Store, h *keys.Hasher, rules keys.Rules, audit *audit.Stream, who roles.Actor, now func() time.Time) *Manager {
	return &Manager{store: s, hasher: h, rules: rules, audit: audit, who: who, now: now, replicas: AnyReplica, wait: time.Second}
}

// AllowUnpeppered lets Import and Apply take plain secrets without a pepper. It is for the embedded
// store alone, whose hashes end with its process; from a copy of any other store, secrets could be
// guessed.
func (m *Manager) AllowUnpeppered() { m.bare = true }

// UseID gives the next key that Create makes this id, which NewID has made: for who must know it
// before. Create fails with store.ErrExists if there is such a key.
func (m *Manager) UseID(id string) { m.id = id }

// AnyReplica waits for one replica where the store has some, or should have.
const AnyReplica = -1

// RequireReplicas makes Revoke wait until n replicas have the change, at most timeout; n 0 is not
// to wait. Without this call Revoke waits one second for AnyReplica.
func (m *Manager) RequireReplicas(n int, timeout time.Duration) { m.replicas, m.wait = n, timeout }

// Patch says what Update changes: what is nil stays.
type Patch struct {
	Name      *string
	Note      *string
	Plan      *string
	Scopes    *[]string
	IPs       *[]netip.Prefix
	Limits    *[]keys.Override // all of them
	Overrides []LimitChange    // single ones, after Limits
	ExpiresAt *time.Time       // zero = never
	Force     bool             // allows an expiry in the past
	Version   int64            // the key's version that the change is meant for; 0 = whichever stands
}

// LimitChange says what one limit of a plan is for a key.
type LimitChange struct {
	keys.Override
	Remove bool // takes the override away: the plan's own size counts
}

// Create makes a key and returns it with its secret, which is nowhere kept. Of k these are taken:
// API, Team, Name, Note, Environment, Plan, Scopes, IPs, Limits, ExpiresAt, AnchorDay (default:
// today's day) and Status (Active, the default, or Inactive). An expiry in the past needs force.
// Errors beside the common: a *FieldError; what Rules.ValidateKey says; a *CapError. A key and a
// secret beside an error are made and good.
func (m *Manager) Create(ctx context.Context, k keys.Key, force bool) (created *keys.Key, secret string, err error) {
	if !m.who.Operator && k.API == "" && k.Team == "" {
		k.API, k.Team = m.who.API, m.who.Team
	}
	if err := m.who.Check(roles.ActionCreate, k.API, k.Team); err != nil {
		return nil, "", err
	}
	prefix, err := m.rules.Prefix(k.API, k.Environment)
	if err != nil {
		return nil, "", err
	}
	secret = keys.NewSecret(prefix)
	next := m.draft(&k, secret)
	next.Extras = nil // see GrantExtra
	if err := m.check(nil, next, force); err != nil {
		return nil, "", err
	}
	if err := m.entitled(ctx, nil, next); err != nil {
		return nil, "", err
	}
	limit, err := m.capOf(next)
	if err != nil {
		return nil, "", err
	}
	if err = m.auditedKey(ctx, roles.ActionCreate, nil, next, func(ctx context.Context) error {
		err := m.store.CreateWithin(ctx, next, limit)
		if err == nil {
			created = next
		}
		return err
	}); created == nil {
		return nil, "", err
	}
	return created, secret, err
}

// draft is k as a new key with this secret.
func (m *Manager) draft(k *keys.Key, secret string) *keys.Key {
	now := m.today()
	next := k.Clone()
	next.ID = cmp.Or(m.id, NewID())
	next.LimitID, next.CreatedBy, next.RotatedFrom, next.RotatedTo = next.ID, m.who.Who(), "", ""
	next.CreatedAt, next.UpdatedAt, next.RetiresAt, next.LastUsed = now, now, time.Time{}, time.Time{}
	next.Version, next.Other = 1, keys.Digest{}
	next.Algorithm, next.Digest = keys.AlgorithmHMACSHA256, m.hasher.Digest(secret)
	if next.Status == "" {
		next.Status = keys.Active
	}
	if next.AnchorDay == 0 {
		next.AnchorDay = now.Day()
	}
	return next
}

// today is now as records keep it.
func (m *Manager) today() time.Time { return m.now().UTC().Truncate(time.Millisecond) }

// NewID returns key_ and 16 random base62 characters: 95 bits.
func NewID() string { return "key_" + keys.NewSecret("")[:16] }

// check refuses what cannot be stored, what the policy does not know, and an expiry that is over
// already. Old is nil for a new key; of a standing one only what changes is held against the
// policy, which may have changed too.
func (m *Manager) check(old, next *keys.Key, force bool) error {
	if err := next.Validate(); err != nil {
		return err
	}
	if err := textSecret(m.rules, old, next, ""); err != nil {
		return err
	}
	if old == nil && next.Status != keys.Active && next.Status != keys.Inactive {
		return &keys.FieldError{Field: "status", Problem: "of a new key is active or inactive"}
	}
	if !next.ExpiresAt.IsZero() && !force && (old == nil || !old.ExpiresAt.Equal(next.ExpiresAt)) && !next.ExpiresAt.After(m.now()) {
		return &keys.FieldError{Field: "expires_at", Problem: next.ExpiresAt.UTC().Format(time.RFC3339) + " is in the past; force it if that is meant"}
	}
	if err := store.CheckGrowth(old, next, m.rules); err != nil {
		return err
	}
	if sameLimits(old, next) {
		return nil
	}
	if err := m.rules.ValidateKey(next); err != nil {
		return err
	}
	return m.rules.ValidateLimits(next)
}

// sameLimits reports whether nothing about the limits of a standing key changes; old is nil for a
// new one.
func sameLimits(old, next *keys.Key) bool {
	return old != nil && old.Plan == next.Plan && slices.Equal(old.Scopes, next.Scopes) && slices.Equal(old.Limits, next.Limits)
}

// capOf returns the cap that k is under, if it counts.
func (m *Manager) capOf(k *keys.Key) (*store.Cap, error) {
	most, capped := m.rules.Cap(k.API, k.Plan, k.Environment)
	if !capped || !store.CountsForCap(k) {
		return nil, nil
	}
	if k.Team == "" {
		return nil, &keys.FieldError{Field: "team", Problem: "is empty, and plan " + keys.Quote(k.Plan) + " limits the keys of a team"}
	}
	return &store.Cap{Environment: k.Environment, Plan: k.Plan, Most: most}, nil
}

// auditedKey makes a change of old to next between its two lines in the audit stream. Old is nil
// for a new key, next for one that will be gone.
func (m *Manager) auditedKey(ctx context.Context, action roles.Action, old, next *keys.Key, change func(context.Context) error) error {
	k := next
	if k == nil {
		k = old
	}
	// Best before the primary loses them. Nothing depends on this one time.
	m.noted.Do(func() { _ = m.store.NoteReplicas(ctx, k.ID) })
	entry := audit.NewEntry(m.who, action, k.API, k.Team, k.ID)
	if action == roles.ActionRotate {
		entry.IDs = []string{old.ID, next.ID}
	}
	var err error
	if entry.Before, err = store.PublicRecord(old); err != nil {
		return err
	}
	if entry.After, err = store.PublicRecord(next); err != nil {
		return err
	}
	return m.audit.Do(ctx, entry, change)
}

// read reads a key that the actor may do action on.
func (m *Manager) read(ctx context.Context, action roles.Action, id string) (*keys.Key, error) {
	k, err := m.store.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	// To all but what is about limits, a client's record is no key.
	ofLimits := action == roles.ActionGrantExtra || action == roles.ActionResetLimit
	if !m.who.Sees(k) || k.IsClient() && !ofLimits {
		return nil, store.ErrNoKey
	}
	if err := m.who.Check(action, k.API, k.Team); err != nil {
		return nil, err
	}
	return k, nil
}

// Get returns one key, with LastUsed.
func (m *Manager) Get(ctx context.Context, id string) (*keys.Key, error) {
	return m.read(ctx, roles.ActionView, id)
}

// List is Store.List for what the actor may see: a member sees only the keys of the own team, which
// are also what an empty Filter means then.
func (m *Manager) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]*keys.Key, string, error) {
	if !m.who.Operator && f.API == "" && f.Team == "" {
		f.API, f.Team = m.who.API, m.who.Team
	}
	if err := m.who.Check(roles.ActionView, f.API, f.Team); err != nil {
		return nil, "", err
	}
	return m.store.List(ctx, f, cursor, limit)
}

// edit is one way in which a standing key changes.
type edit struct {
	action  roles.Action
	version int64 // that the key must have; 0 = any
	force   bool
	always  bool // also where nothing would change
	alter   func(k *keys.Key) error
	write   func(ctx context.Context, old, next *keys.Key) (*keys.Key, error)
}

// edit makes a change on what stands, again if somebody else was faster and the caller named no
// version.
func (m *Manager) edit(ctx context.Context, id string, c edit) (*keys.Key, error) {
	for range store.MaxTries {
		old, err := m.read(ctx, c.action, id)
		if err != nil {
			return nil, err
		}
		if c.version != 0 && c.version != old.Version {
			return nil, store.ErrConflict
		}
		next := old.Clone()
		if err := c.alter(next); err != nil {
			return nil, err
		}
		if !c.always && reflect.DeepEqual(old, next) {
			return old, nil
		}
		if err := m.check(old, next, c.force); err != nil {
			return nil, err
		}
		if err := m.entitled(ctx, old, next); err != nil {
			return nil, err
		}
		next.UpdatedAt = m.today()
		var written *keys.Key
		err = m.auditedKey(ctx, c.action, old, next, func(ctx context.Context) error {
			var err error
			written, err = c.write(ctx, old, next)
			return err
		})
		if c.version != 0 || written != nil || !errors.Is(err, store.ErrConflict) {
			return written, err
		}
	}
	return nil, store.ErrConflict
}

func (m *Manager) write(ctx context.Context, old, next *keys.Key) (*keys.Key, error) {
	var limit *store.Cap
	if !store.CountsForCap(old) || old.Plan != next.Plan {
		var err error
		if limit, err = m.capOf(next); err != nil {
			return nil, err
		}
		if limit != nil {
			limit.Always = old.Plan != next.Plan
		}
	}
	return m.store.WriteWithin(ctx, old, next, limit)
}

// Update changes fields of a key on top of whatever others changed meanwhile, unless p.Version says
// which version it is meant for. Errors beside the common: a *FieldError; what Rules.ValidateKey
// says; a *CapError; ErrFinal; ErrConflict.
func (m *Manager) Update(ctx context.Context, id string, p Patch) (*keys.Key, error) {
	return m.edit(ctx, id, edit{
		action: roles.ActionUpdate, version: p.Version, force: p.Force, write: m.write,
		alter: func(k *keys.Key) error {
			if k.Status == keys.Revoked {
				return store.ErrFinal
			}
			return p.apply(k)
		},
	})
}

func (p *Patch) apply(k *keys.Key) error {
	set(&k.Name, p.Name)
	set(&k.Note, p.Note)
	set(&k.Plan, p.Plan)
	if p.Scopes != nil && !slices.Equal(k.Scopes, *p.Scopes) {
		k.Scopes = slices.Clone(*p.Scopes)
	}
	if p.IPs != nil && !slices.Equal(k.IPs, *p.IPs) {
		k.IPs = slices.Clone(*p.IPs)
	}
	if p.Limits != nil && !slices.Equal(k.Limits, *p.Limits) {
		k.Limits = slices.Clone(*p.Limits)
	}
	if p.ExpiresAt != nil && !k.ExpiresAt.Equal(*p.ExpiresAt) {
		k.ExpiresAt = p.ExpiresAt.UTC()
	}
	for _, c := range p.Overrides {
		if err := c.apply(k); err != nil {
			return err
		}
	}
	return nil
}

func (c *LimitChange) apply(k *keys.Key) error {
	i := slices.IndexFunc(k.Limits, func(o keys.Override) bool { return o.Name == c.Name })
	switch {
	case c.Remove && i < 0:
		return &keys.FieldError{Field: "limits", Problem: "the key has none of its own for " + keys.Quote(c.Name)}
	case c.Remove:
		k.Limits = slices.Delete(k.Limits, i, i+1)
	case i < 0:
		k.Limits = append(k.Limits, c.Override)
	default:
		k.Limits[i] = c.Override
	}
	return nil
}

func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

// Revoke ends a key for good, publishes that, and waits until every server has heard of it.
// Revoking again does it again. An ErrUnconfirmed comes with the key: the change is made, but could
// be lost if the store's primary is lost now. So does an ErrUnheard: the change is made, but
// servers that are cut off can still serve the key for a while.
func (m *Manager) Revoke(ctx context.Context, id string) (*keys.Key, error) {
	var unconfirmed error
	k, err := m.edit(ctx, id, edit{
		action: roles.ActionRevoke, always: true,
		alter: func(k *keys.Key) error { k.Status = keys.Revoked; return nil },
		write: func(ctx context.Context, old, next *keys.Key) (k *keys.Key, err error) {
			k, unconfirmed, err = m.revoke(ctx, old, next)
			return k, err
		},
	})
	if k != nil {
		err = errors.Join(unconfirmed, m.store.AwaitServers(ctx, id, m.wait), err)
	}
	return k, err
}

func (m *Manager) revoke(ctx context.Context, old, next *keys.Key) (k *keys.Key, unconfirmed, err error) {
	need := m.replicas
	none := ""
	if need < 0 {
		r, err := m.store.Replication(ctx, old.ID)
		need = 0
		if r.Expected || err != nil && !errors.Is(err, store.ErrNoPrimary) {
			need = 1 // not to know must not stop a revocation
		}
		if r.Expected && r.Online == 0 {
			none = "; the store has had replicas, and none is there now"
		}
	}
	if need == 0 {
		k, err = m.store.Write(ctx, old, next)
		return k, nil, err
	}
	k, confirmed, err := m.store.WriteAndWait(ctx, old, next, need, m.wait)
	if k != nil && confirmed < need {
		unconfirmed = fmt.Errorf("%w: %d of %s%s", ErrUnconfirmed, confirmed, keys.Plural(need, "replica"), none)
	}
	return k, unconfirmed, err
}

// Activate switches a key on. Errors beside the common: ErrFinal; a *CapError.
func (m *Manager) Activate(ctx context.Context, id string) (*keys.Key, error) {
	return m.edit(ctx, id, edit{action: roles.ActionActivate, write: m.write, alter: to(keys.Active)})
}

// Deactivate switches a key off until Activate. Errors beside the common: ErrFinal.
func (m *Manager) Deactivate(ctx context.Context, id string) (*keys.Key, error) {
	return m.edit(ctx, id, edit{action: roles.ActionDeactivate, write: m.write, alter: to(keys.Inactive)})
}

func to(status keys.Status) func(*keys.Key) error {
	return func(k *keys.Key) error {
		if k.Status == keys.Revoked {
			return store.ErrFinal
		}
		k.Status = status
		return nil
	}
}

// Delete removes a revoked key and leaves a tombstone, so that the id is never used again. It
// returns the key as it was. Errors beside the common: ErrNotRevoked.
func (m *Manager) Delete(ctx context.Context, id string) (*keys.Key, error) {
	k, err := m.read(ctx, roles.ActionDelete, id)
	if err != nil {
		return nil, err
	}
	if k.Status != keys.Revoked {
		return nil, store.ErrNotRevoked
	}
	var deleted *keys.Key
	err = m.auditedKey(ctx, roles.ActionDelete, k, nil, func(ctx context.Context) error {
		err := m.store.Delete(ctx, k)
		if err == nil {
			deleted = k
		}
		return err
	})
	return deleted, err
}

// Repair is Store.Repair, for the operator. The outcome in the audit stream has the counts, and the
// ids of what was put right.
func (m *Manager) Repair(ctx context.Context, api string) (report store.RepairReport, err error) {
	if err := m.who.Check(roles.ActionRepair, api, ""); err != nil {
		return store.RepairReport{}, err
	}
	intent, err := m.audit.Intent(ctx, audit.NewEntry(m.who, roles.ActionRepair, api, ""))
	if err != nil {
		return store.RepairReport{}, err
	}
	report, err = m.store.Repair(ctx, api)
	counts := report
	counts.IDs = nil
	data, encoding := json.Marshal(counts)
	outcome := audit.Entry{Intent: intent, Result: audit.ResultOf(err), IDs: report.IDs, After: data}
	return report, errors.Join(err, encoding, m.audit.Conclude(ctx, outcome))
}
