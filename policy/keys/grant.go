package keys

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
	"unique"
)

// Profile is what keys of the same kind have in common. Grants share it, so nobody may change it.
type Profile struct {
	API         string
	Environment string
	Plan        string
	Status      Status
	Scopes      []string
	IPs         []netip.Prefix // sorted, none inside another
	Limits      []Override
	Extras      []Extra // ended ones too
}

// Grant is what a decision needs to know of a key: its record without what only people and the life
// cycle need. It never changes, and may be copied. Its texts are parts of a larger one, which each
// of them keeps in memory: who keeps one for long should clone it. The zero Grant is no key's.
type Grant struct {
	*Profile
	Texts                         string // id, name, team, and the limit id if it is another
	IDBytes, NameBytes, TeamBytes uint8

	AnchorDay     int8 // 1 to 31; 0 means 1
	OtherLimitID  bool
	CreatedMinute uint32         // Unix minutes; 0 = not known
	EndsAt        int64          // Unix milliseconds of the earlier of expiry and retirement; never if there is neither
	Noted         *atomic.Uint32 // the Usage period in which the use was last noted, shared by all copies
}

// ID returns the key's id.
func (g *Grant) ID() string { return g.Texts[:g.IDBytes] }

// Name returns the key's name.
func (g *Grant) Name() string { return g.Texts[g.IDBytes:][:g.NameBytes] }

// Team returns the team that the key belongs to, "" if it has none.
func (g *Grant) Team() string { return g.Texts[int(g.IDBytes)+int(g.NameBytes):][:g.TeamBytes] }

// LimitID returns the name of the key's counters.
func (g *Grant) LimitID() string {
	if g.OtherLimitID {
		return g.Texts[int(g.IDBytes)+int(g.NameBytes)+int(g.TeamBytes):]
	}
	return g.ID()
}

const never = math.MaxInt64

// NewGrant returns what a decision needs of k, which must be valid and may be changed afterwards.
func NewGrant(k *Key) *Grant { return NewGrantOf(k, NewProfile(k)) }

// NewGrantOf is NewGrant with a profile of k that others may share.
func NewGrantOf(k *Key, p *Profile) *Grant {
	g := &Grant{Profile: p, AnchorDay: int8(k.AnchorDay), EndsAt: never, Noted: new(atomic.Uint32)}
	g.Texts = k.ID + k.Name + k.Team
	if g.OtherLimitID = k.LimitID != k.ID; g.OtherLimitID {
		g.Texts += k.LimitID
	}
	g.IDBytes, g.NameBytes, g.TeamBytes = uint8(len(k.ID)), uint8(len(k.Name)), uint8(len(k.Team))
	for _, t := range []time.Time{k.ExpiresAt, k.RetiresAt} {
		if !t.IsZero() {
			g.EndsAt = min(g.EndsAt, t.UnixMilli())
		}
	}
	if !k.CreatedAt.IsZero() {
		g.CreatedMinute = uint32(max(k.CreatedAt.Unix()/60, 1))
	}
	return g
}

// NewProfile copies the lists, and shares the texts that repeat from key to key.
func NewProfile(k *Key) *Profile {
	p := &Profile{
		API: shared(k.API), Environment: shared(k.Environment), Plan: shared(k.Plan),
		Status: Status(shared(string(k.Status))), IPs: disjoint(k.IPs),
	}
	for _, s := range k.Scopes {
		p.Scopes = append(p.Scopes, shared(s))
	}
	for _, o := range k.Limits {
		p.Limits = append(p.Limits, Override{shared(o.Name), o.Requests})
	}
	for _, x := range k.Extras {
		p.Extras = append(p.Extras, Extra{shared(x.Name), x.Requests, x.Until})
	}
	return p
}

// BareGrant returns a Grant of what no record is of: active, without an end. texts is its id, its
// name and its team, of which the first two have so many bytes.
func BareGrant(p *Profile, texts string, id, name int) Grant {
	return Grant{
		Profile: p, Texts: texts, IDBytes: uint8(id), NameBytes: uint8(name), TeamBytes: uint8(len(texts) - id - name), EndsAt: never,
	}
}

// Renamed returns g with other texts, whose counters are those of its id.
func (g *Grant) Renamed(id, name, team string) Grant {
	other := *g
	other.Texts, other.OtherLimitID = id+name+team, false
	other.IDBytes, other.NameBytes, other.TeamBytes = uint8(len(id)), uint8(len(name)), uint8(len(team))
	return other
}

func shared(s string) string { return unique.Make(s).Value() }

// ProfileSum is equal for keys with equal profiles only.
func ProfileSum(k *Key) [sha256.Size]byte {
	var buf [512]byte
	b := buf[:0]
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, s := range [...]string{k.API, k.Environment, k.Plan, string(k.Status)} {
		text(s)
	}
	b = binary.AppendUvarint(b, uint64(len(k.Scopes)))
	for _, s := range k.Scopes {
		text(s)
	}
	b = binary.AppendUvarint(b, uint64(len(k.IPs)))
	for _, prefix := range k.IPs {
		text(prefix.String())
	}
	for _, o := range k.Limits {
		text(o.Name)
		b = binary.AppendVarint(b, o.Requests)
	}
	if len(k.Extras) > 0 {
		b = append(b, 0xff, 0xff) // no length of a name begins so
	}
	for _, x := range k.Extras {
		text(x.Name)
		b = binary.AppendVarint(b, x.Requests)
		b = binary.AppendVarint(b, x.Until.Unix())
		b = binary.AppendVarint(b, int64(x.Until.Nanosecond()))
	}
	return sha256.Sum256(b)
}

// Allows is what Key.Allows says, in logarithmic time.
func (p *Profile) Allows(a netip.Addr) bool {
	if len(p.IPs) == 0 {
		return true
	}
	a = a.Unmap().WithZone("")
	// Of prefixes that do not overlap only the last that starts at or before a can hold it.
	i, found := slices.BinarySearchFunc(p.IPs, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	return found || i > 0 && p.IPs[i-1].Contains(a)
}

// disjoint returns the prefixes that are not inside another one of the list, by address.
func disjoint(list []netip.Prefix) []netip.Prefix {
	sorted := slices.SortedFunc(slices.Values(list), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
	out := sorted[:0]
	for _, p := range sorted {
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return slices.Clip(out)
}

// Expired is what Key.Expired says, to the millisecond.
func (g *Grant) Expired(now time.Time) bool { return g.EndsAt != never && now.UnixMilli() >= g.EndsAt }

// End returns the moment at which the key stops by itself: its expiry or the end of its grace,
// whichever comes first, in UTC. It is zero for a key that does not.
func (g *Grant) End() time.Time {
	if g.EndsAt == never {
		return time.Time{}
	}
	return time.UnixMilli(g.EndsAt).UTC()
}

// allows reports whether a is in the list, or the list is empty. IPv4 inside IPv6 counts as IPv4,
// zones are ignored.
func allows(list []netip.Prefix, a netip.Addr) bool {
	if len(list) == 0 {
		return true
	}
	a = a.Unmap().WithZone("")
	for _, prefix := range list {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}
