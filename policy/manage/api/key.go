package api

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
)

// Key is a key as clients get it: its record without the hash, and what the clock makes of it.
type Key struct {
	ID          string    `json:"id" example:"key_0123456789abcdef"`
	API         string    `json:"api"`
	Team        string    `json:"team,omitempty"`
	Name        string    `json:"name"`
	Note        string    `json:"note,omitempty"`
	Environment string    `json:"environment,omitempty"`
	Plan        string    `json:"plan,omitempty"`
	Scopes      []string  `json:"scopes" nullable:"false"`
	IPs         []string  `json:"ips" nullable:"false" doc:"Addresses and CIDRs that may use the key; none means every address"`
	Limits      []Limit   `json:"limits" nullable:"false" doc:"Limits of the key's own, in place of its plan's"`
	Extras      []Extra   `json:"extras" nullable:"false" doc:"What the operator has granted beyond the limits"`
	Status      string    `json:"status" enum:"active,inactive,revoked"`
	State       string    `json:"state" enum:"active,inactive,revoked,expired,retired,retiring" doc:"The status, with what the clock has made of it; retiring: rotated, and in its grace"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	RetiresAt   time.Time `json:"retires_at,omitzero" doc:"End of the grace after a rotation"`
	CreatedAt   time.Time `json:"created_at,omitzero"`
	CreatedBy   string    `json:"created_by,omitempty"`
	UpdatedAt   time.Time `json:"updated_at,omitzero"`
	LastUsed    time.Time `json:"last_used,omitzero" doc:"Written once a minute; missing means never, or not known"`
	RotatedFrom string    `json:"rotated_from,omitempty"`
	RotatedTo   string    `json:"rotated_to,omitempty"`
	AnchorDay   int       `json:"anchor_day,omitempty" doc:"The day on which the key's own month begins"`
	Version     int64     `json:"version" doc:"Counts changes; the ETag has it"`
}

// Limit is the size of one limit of a key.
type Limit struct {
	Name     string `json:"name" doc:"As the plan calls it"`
	Requests int64  `json:"requests" minimum:"0"`
}

// Extra is what a key may spend beyond a limit, until a time.
type Extra struct {
	Name     string    `json:"name"`
	Requests int64     `json:"requests"`
	Until    time.Time `json:"until"`
}

// shown is a key as a client gets it.
func shown(k *keys.Key, now time.Time) Key {
	v := Key{
		ID: k.ID, API: k.API, Team: k.Team, Name: k.Name, Note: k.Note, Environment: k.Environment, Plan: k.Plan,
		Scopes: append([]string{}, k.Scopes...), IPs: []string{}, Limits: []Limit{}, Extras: []Extra{},
		Status: string(k.Status), State: stateOf(k, now), ExpiresAt: utc(k.ExpiresAt), RetiresAt: utc(k.RetiresAt),
		CreatedAt: utc(k.CreatedAt), CreatedBy: k.CreatedBy, UpdatedAt: utc(k.UpdatedAt), LastUsed: utc(k.LastUsed),
		RotatedFrom: k.RotatedFrom, RotatedTo: k.RotatedTo, AnchorDay: k.AnchorDay, Version: k.Version,
	}
	for _, p := range k.IPs {
		v.IPs = append(v.IPs, p.String())
	}
	for _, l := range k.Limits {
		v.Limits = append(v.Limits, Limit(l))
	}
	for _, x := range k.Extras {
		if now.Before(x.Until) {
			v.Extras = append(v.Extras, Extra{x.Name, x.Requests, utc(x.Until)})
		}
	}
	return v
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

// stateOf is the status, with what the clock has made of it.
func stateOf(k *keys.Key, now time.Time) string {
	switch {
	case k.Status != keys.Active:
		return string(k.Status)
	case !k.RetiresAt.IsZero() && !now.Before(k.RetiresAt):
		return "retired"
	case k.Expired(now):
		return "expired"
	case !k.RetiresAt.IsZero():
		return "retiring"
	}
	return string(k.Status)
}

// NewKey is what a member may say of a new key. Its API and team are the member's.
type NewKey struct {
	Name        string    `json:"name"`
	Note        string    `json:"note,omitempty"`
	Environment string    `json:"environment,omitempty"`
	Plan        string    `json:"plan,omitempty"`
	Scopes      []string  `json:"scopes,omitempty" nullable:"false"`
	IPs         []string  `json:"ips,omitempty" nullable:"false"`
	Limits      []Limit   `json:"limits,omitempty" nullable:"false"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	Status      string    `json:"status,omitempty" enum:"active,inactive"`
	AnchorDay   int       `json:"anchor_day,omitempty" minimum:"1" maximum:"31"`
}

// key is the draft of a record. Its errors are a *keys.FieldError.
func (n *NewKey) key() (keys.Key, error) {
	k := keys.Key{
		Name: n.Name, Note: n.Note, Environment: n.Environment, Plan: n.Plan, Scopes: n.Scopes,
		Limits: overrides(n.Limits), Status: keys.Status(n.Status), AnchorDay: n.AnchorDay, ExpiresAt: moment(n.ExpiresAt),
	}
	var err error
	k.IPs, err = keys.ParseAddresses(n.IPs)
	return k, err
}

// moment is a time as records keep it.
func moment(t time.Time) time.Time { return utc(t).Truncate(time.Millisecond) }

func overrides(limits []Limit) (all []keys.Override) {
	for _, l := range limits {
		all = append(all, keys.Override(l))
	}
	return all
}

// KeyPatch is a JSON merge patch (RFC 7396) of a key: what is missing stays, null takes away.
type KeyPatch struct {
	Name      field[string]    `json:"name,omitzero"`
	Note      field[string]    `json:"note,omitzero"`
	Plan      field[string]    `json:"plan,omitzero"`
	Scopes    field[[]string]  `json:"scopes,omitzero"`
	IPs       field[[]string]  `json:"ips,omitzero"`
	Limits    field[[]Limit]   `json:"limits,omitzero"`
	ExpiresAt field[time.Time] `json:"expires_at,omitzero"`
}

// change is the patch as the Manager takes it. Its errors are a *keys.FieldError.
func (p *KeyPatch) change(version int64) (admin.Patch, error) {
	c := admin.Patch{Version: version, Name: p.Name.pointer(), Note: p.Note.pointer(), Plan: p.Plan.pointer(), Scopes: p.Scopes.pointer()}
	if p.IPs.given {
		ips, err := keys.ParseAddresses(p.IPs.value)
		if err != nil {
			return admin.Patch{}, err
		}
		if ips == nil {
			ips = []netip.Prefix{}
		}
		c.IPs = &ips
	}
	if p.Limits.given {
		limits := append([]keys.Override{}, overrides(p.Limits.value)...)
		c.Limits = &limits
	}
	if p.ExpiresAt.given {
		at := moment(p.ExpiresAt.value)
		c.ExpiresAt = &at
	}
	return c, nil
}

// field is one of a merge patch: missing, null, or a value.
type field[T any] struct {
	given bool
	value T // zero for null
}

// UnmarshalJSON reads a value or null, and notes that it stands there.
func (f *field[T]) UnmarshalJSON(data []byte) error {
	f.given = true
	if string(data) == "null" {
		return nil
	}
	return json.Unmarshal(data, &f.value)
}

// Schema is that of the value, or null.
func (f field[T]) Schema(r huma.Registry) *huma.Schema {
	s := *r.Schema(reflect.TypeFor[T](), true, "")
	s.Nullable = true
	return &s
}

func (f *field[T]) pointer() *T {
	if !f.given {
		return nil
	}
	return &f.value
}
