package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// What is wrong with a file, or between it and the store; the Diff says where. Test with errors.Is.
var (
	ErrRefused = errors.New("keys: the file cannot be applied") // nothing was changed
	ErrSkipped = errors.New("keys: some keys of the file were left out; the others are as it says")
)

// ApplyOptions says what Apply may touch, and how much of it.
type ApplyOptions struct {
	keyfile.Defaults      // what a record gets where the file says nothing; API and Team also bound what the file may hold
	AllTeams         bool // the file speaks for every team of API, not only for those it has keys of
	Prune            bool // revoke and delete keys that the file does not name
	DryRun           bool // only say what would be done
}

// ChangeKind says what Apply does to a key.
type ChangeKind string

// The three kinds.
const (
	ChangeCreate ChangeKind = "create"
	ChangeUpdate ChangeKind = "update"
	ChangeDelete ChangeKind = "delete" // revoke, then delete
)

// FieldChange is one line of a diff. Neither side is a secret or a hash.
type FieldChange struct {
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`
}

// endError says that the store has a key in a state from which no file leads: only that key is left
// out.
type endError struct{ why string }

// Error says which state.
func (e *endError) Error() string { return e.why }

// Change is what Apply does to one key.
type Change struct {
	Kind   ChangeKind    `json:"kind"`
	ID     string        `json:"id"`
	API    string        `json:"api"`
	Team   string        `json:"team,omitempty"`
	Name   string        `json:"name"`
	Fields []FieldChange `json:"fields,omitempty"` // of an update
	Failed string        `json:"failed,omitempty"` // why it could not be made

	old, next *keys.Key
}

// Kept is a key that the file does not name, or not fully, and that stays as it is.
type Kept struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Diff is what lies between a file and the store.
type Diff struct {
	Changes   []Change  `json:"changes"` // in the order in which they are made
	Unchanged int       `json:"unchanged"`
	Kept      []Kept    `json:"kept,omitempty"`
	Refused   []Refusal `json:"refused,omitempty"` // faults of the file: with these nothing is changed
	Skipped   []Refusal `json:"skipped,omitempty"` // keys that the store has in a state from which no file leads
}

// Empty reports whether there is nothing to do.
func (d *Diff) Empty() bool { return len(d.Changes)+len(d.Refused)+len(d.Skipped) == 0 }

// String is the diff for people: a line for each key that is created (+), deleted (-), changed (~,
// with a line for each field), kept (=) or refused (!), and the counts.
func (d *Diff) String() string {
	var b strings.Builder
	counts := map[ChangeKind]int{}
	for _, c := range d.Changes {
		counts[c.Kind]++
		mark := map[ChangeKind]string{ChangeCreate: "+", ChangeUpdate: "~", ChangeDelete: "-"}[c.Kind]
		fmt.Fprintf(&b, "%s %s %s %q\n", mark, c.ID, strings.TrimSuffix(c.API+"/"+c.Team, "/"), c.Name)
		for _, f := range c.Fields {
			fmt.Fprintf(&b, "    %s: %s -> %s\n", f.Field, f.From, f.To)
		}
		if c.Failed != "" {
			fmt.Fprintf(&b, "    FAILED: %s\n", c.Failed)
		}
	}
	for _, k := range d.Kept {
		fmt.Fprintf(&b, "= %s %s\n", k.ID, k.Reason)
	}
	for _, r := range slices.Concat(d.Refused, d.Skipped) {
		fmt.Fprintf(&b, "! line %d: %s\n", r.Line, strings.TrimSpace(r.ID+" "+r.Reason))
	}
	fmt.Fprintf(&b, "%d to create, %d to update, %d to delete, %d unchanged\n",
		counts[ChangeCreate], counts[ChangeUpdate], counts[ChangeDelete], d.Unchanged)
	return b.String()
}

// Apply makes the store equal to a file for the teams whose keys the file has, for that of o.API
// and o.Team, or with o.AllTeams for all of o.API; the keys of other teams are never touched. A
// second Apply of the same file changes nothing.
//
// What the file does not say of a key is empty, with these exceptions, which stay as they are in
// the store: status (a key that was switched off or revoked is not switched on by a file that does
// not mention it), extras, limit_id, anchor_day, retires_at, created_at, created_by, rotated_from
// and rotated_to. Version and updated_at are the store's own. Keys that the file does not name stay
// unless o.Prune is set; successors by rotation of keys that it names stay in any case.
//
// Everything is compared before anything is changed. A file with a record that is broken, that
// Rules or the store would refuse, that has another secret than the key with its id, or that
// belongs to another API or team, is an ErrRefused. A key that is revoked or deleted for good, or
// whose record is corrupt, stays as it is while the others go on, and the error is an ErrSkipped
// then. Deletions come first, so that caps count what will be there. Changes that fail, for example
// with ErrConflict because somebody else changed the key after the comparison, have Change.Failed
// set, the others go on, and the error joins them all; the next Apply tries again. A file without
// any key is taken at its word: with o.Prune it deletes all of them. Each change is audited for
// itself. Other errors: those of Import.
func (m *Manager) Apply(ctx context.Context, records iter.Seq2[keyfile.Record, error], o ApplyOptions) (*Diff, error) {
	if err := m.who.Check(roles.ActionImport, o.API, ""); err != nil {
		return nil, err
	}
	if o.AllTeams && (o.API == "" || o.Team != "") {
		return nil, &keys.FieldError{Field: "all_teams", Problem: "needs an API, and no team"}
	}
	a := newApplier(m, o)
	if err := a.read(records); err != nil {
		return nil, err
	}
	if err := a.readStore(ctx); err != nil {
		return nil, err
	}
	a.comparison()
	if len(a.diff.Refused) > 0 {
		return a.diff, ErrRefused
	}
	var skipped error
	if len(a.diff.Skipped) > 0 {
		skipped = ErrSkipped
	}
	if o.DryRun {
		return a.diff, skipped
	}
	return a.diff, errors.Join(a.do(ctx), skipped)
}

type teamName struct{ api, team string }

type applier struct {
	m       *Manager
	o       ApplyOptions
	im      *importer // completes and checks records
	diff    *Diff
	wanted  []*candidate
	byID    map[string]*candidate
	scope   map[teamName]bool
	present map[string]*keys.Key
	places  map[keys.Digest]store.SecretPlace // of the file's secrets
	corrupt map[string]error                  // by id: the record cannot be read
}

func newApplier(m *Manager, o ApplyOptions) *applier {
	im := newImporter(m, ImportOptions{Defaults: o.Defaults})
	return &applier{
		m: m, o: o, im: im, diff: &Diff{Changes: []Change{}}, byID: map[string]*candidate{}, scope: map[teamName]bool{},
		present: map[string]*keys.Key{}, places: map[keys.Digest]store.SecretPlace{}, corrupt: map[string]error{},
	}
}

func (a *applier) refuse(line int, id string, why error) {
	if keys.IDProblem(id) != "" {
		id = ""
	}
	a.diff.Refused = append(a.diff.Refused, Refusal{line, id, why.Error()})
}

// read takes the whole file, because only that says what must go.
func (a *applier) read(records iter.Seq2[keyfile.Record, error]) error {
	for record, err := range records {
		if errors.Is(err, keyfile.ErrSource) {
			return err
		}
		var ignored *keyfile.IgnoredError
		if errors.As(err, &ignored) {
			continue
		}
		c, err := a.im.take(record, err)
		if err != nil {
			a.refuse(record.Line, record.Key.ID, err)
			continue
		}
		a.wanted = append(a.wanted, c)
	}
	return nil
}

// readStore reads all keys that the file is about: those of its teams, and others that have an id
// of it.
func (a *applier) readStore(ctx context.Context) error {
	if err := a.im.findOlder(ctx, a.wanted); err != nil {
		return err
	}
	if a.o.API != "" && a.o.Team != "" {
		a.scope[teamName{a.o.API, a.o.Team}] = true
	}
	for _, c := range a.wanted {
		a.im.fill(c)
		a.byID[c.key.ID] = c
		a.scope[teamName{c.key.API, c.key.Team}] = true
	}
	if a.o.AllTeams {
		a.scope = map[teamName]bool{{a.o.API, ""}: true}
	}
	for team := range a.scope {
		if err := a.list(ctx, team); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(a.wanted, importBatch) {
		if err := a.others(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// list reads the keys of one team; those of no team are only in the list of their API.
func (a *applier) list(ctx context.Context, team teamName) error {
	for cursor, more := "", true; more; more = cursor != "" {
		page, next, err := a.m.store.List(ctx, store.Filter{API: team.api, Team: team.team}, cursor, store.MaxPage)
		unreadable, err := corruptRecords(err)
		if err != nil {
			return err
		}
		for _, c := range unreadable {
			a.corrupt[c.ID] = c
		}
		for _, k := range page {
			if k.Team == team.team || a.o.AllTeams {
				a.present[k.ID] = k
			}
		}
		cursor = next
	}
	return nil
}

// corruptRecords returns the records that a List has left out, or its error if that is another one.
func corruptRecords(err error) ([]*keys.CorruptError, error) {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var found []*keys.CorruptError
	for _, one := range all {
		var corrupt *keys.CorruptError
		if one != nil && !errors.As(one, &corrupt) {
			return nil, err
		}
		if corrupt != nil {
			found = append(found, corrupt)
		}
	}
	return found, nil
}

// others looks for the ids and secrets of the file outside of its teams.
func (a *applier) others(ctx context.Context, wanted []*candidate) error {
	var ids []string
	var digests []keys.Digest
	for _, c := range wanted {
		ids, digests = append(ids, c.key.ID), append(digests, c.key.Digest)
	}
	places, err := a.m.store.SecretPlaces(ctx, digests)
	if err != nil {
		return err
	}
	for i, c := range wanted {
		a.places[c.key.Digest] = places[i]
	}
	found, err := a.m.store.ReadAll(ctx, ids)
	if err != nil {
		return err
	}
	for i, f := range found {
		var corrupt *keys.CorruptError
		switch id := ids[i]; {
		case errors.As(f.Err, &corrupt):
			a.corrupt[id] = f.Err
		case f.Key != nil && a.present[id] == nil:
			a.present[id] = f.Key // with ErrDeleted, a tombstone
		}
	}
	return nil
}

// comparison fills the diff.
func (a *applier) comparison() {
	a.im.standing = a.present
	var updates, creates []Change
	for _, c := range a.wanted {
		old := a.present[c.key.ID]
		change, err := a.compare(c, old)
		var end *endError
		switch {
		case errors.As(err, &end):
			a.diff.Skipped = append(a.diff.Skipped, Refusal{c.line, c.key.ID, end.why})
		case err != nil:
			a.refuse(c.line, c.key.ID, err)
		case old == nil:
			creates = append(creates, newChange(ChangeCreate, nil, c.key))
		case len(change.Fields) > 0:
			updates = append(updates, *change)
		default:
			a.diff.Unchanged++
		}
		if err == nil && old != nil && old.Status == keys.Revoked && c.key.Status != keys.Revoked {
			a.diff.Kept = append(a.diff.Kept, Kept{old.ID, "is revoked for good, which the file does not say"})
		}
	}
	a.diff.Changes = slices.Concat(a.diff.Changes, a.prune(), updates, creates)
	for _, id := range slices.Sorted(maps.Keys(a.corrupt)) {
		if a.byID[id] == nil {
			a.diff.Kept = append(a.diff.Kept, Kept{id, "cannot be read, and is not in the file: " + a.corrupt[id].Error()})
		}
	}
	slices.SortStableFunc(a.diff.Refused, func(x, y Refusal) int { return cmp.Compare(x.Line, y.Line) })
}

// prune returns the changes for keys that the file does not name.
func (a *applier) prune() []Change {
	var out []Change
	for _, id := range slices.Sorted(maps.Keys(a.present)) {
		k := a.present[id]
		from := a.ancestor(k)
		switch {
		case a.byID[id] != nil:
		case from != "":
			a.diff.Kept = append(a.diff.Kept, Kept{id, "is not in the file; it is the successor by rotation of " + from})
		case !a.o.Prune:
			a.diff.Kept = append(a.diff.Kept, Kept{id, "is not in the file"})
		default:
			out = append(out, newChange(ChangeDelete, k, nil))
		}
	}
	return out
}

// ancestor returns the key of the file that k descends from by rotation.
func (a *applier) ancestor(k *keys.Key) string {
	for range len(a.present) {
		if k == nil || k.RotatedFrom == "" {
			break
		}
		if a.byID[k.RotatedFrom] != nil {
			return k.RotatedFrom
		}
		k = a.present[k.RotatedFrom]
	}
	return ""
}

func newChange(kind ChangeKind, old, next *keys.Key) Change {
	k := cmp.Or(next, old)
	return Change{Kind: kind, ID: k.ID, API: k.API, Team: k.Team, Name: k.Name, old: old, next: next}
}

// compare says what of old changes for c, or why it cannot.
func (a *applier) compare(c *candidate, old *keys.Key) (*Change, error) {
	k := c.key
	if err := a.im.check(c); err != nil {
		return nil, err
	}
	if a.o.API != "" && k.API != a.o.API || a.o.Team != "" && k.Team != a.o.Team {
		return nil, fmt.Errorf("belongs to %s, not to %s", k.API+"/"+k.Team, a.o.API+"/"+a.o.Team)
	}
	p := a.places[k.Digest]
	switch {
	case a.corrupt[k.ID] != nil:
		return nil, &endError{"stays as it is: " + a.corrupt[k.ID].Error()}
	case old != nil && old.Status == keys.Deleted:
		return nil, &endError{"was deleted, and an id is never used again; take it out of the file"}
	case p.Deleted:
		return nil, &endError{"has the secret of " + keys.Quote(p.ID) + ", which was deleted, and a secret is never used again; take it out of the file"}
	case p.ID != "" && p.ID != k.ID:
		return nil, fmt.Errorf("the secret belongs to %s, which is in the store", keys.Quote(p.ID))
	case old == nil:
		return nil, a.successor(k)
	case old.API != k.API || old.Team != k.Team:
		return nil, errors.New("is the id of a key of another API or team")
	case old.Environment != k.Environment:
		return nil, &keys.FieldError{Field: "environment", Problem: "never changes; make another key"}
	case !old.AnswersTo(k.Digest) && !p.Former:
		return nil, errors.New("has another secret than the key in the store, and a key's secret never changes; " +
			"give it another id. If only the pepper is another one, export the key again")
	case old.Status == keys.Revoked && c.state && k.Status != keys.Revoked:
		return nil, &endError{"is revoked for good; take it out of the file, or say status: revoked"}
	}
	change := newChange(ChangeUpdate, old, c.over(old))
	change.Fields = fieldChanges(old, change.next)
	return &change, nil
}

// successor refuses a new key that would be taken for one that a rotation has left unfinished.
func (a *applier) successor(k *keys.Key) error {
	if k.RotatedFrom == "" {
		return nil
	}
	to, known := "", false
	if old := a.present[k.RotatedFrom]; old != nil && old.Status != keys.Deleted {
		to, known = old.RotatedTo, true
	}
	if c := a.byID[k.RotatedFrom]; c != nil {
		to, known = cmp.Or(c.key.RotatedTo, to), true
	}
	if known && to != k.ID {
		return notRotatedTo(k)
	}
	return nil
}

// over returns what old becomes by the file.
func (c *candidate) over(old *keys.Key) *keys.Key {
	next, k := old.Clone(), c.key
	next.Name, next.Note, next.Plan = k.Name, k.Note, k.Plan
	next.Scopes, next.IPs, next.Limits, next.ExpiresAt = k.Scopes, k.IPs, k.Limits, k.ExpiresAt
	if len(k.Extras) > 0 {
		next.Extras = k.Extras
	}
	if c.state {
		next.Status = k.Status
	}
	if c.counted {
		next.LimitID = k.LimitID
	}
	if c.anchored {
		next.AnchorDay = k.AnchorDay
	}
	if !k.RetiresAt.IsZero() {
		next.RetiresAt = k.RetiresAt
	}
	if c.dated {
		next.CreatedAt = k.CreatedAt
	}
	if c.signed {
		next.CreatedBy = k.CreatedBy
	}
	next.RotatedFrom = cmp.Or(k.RotatedFrom, next.RotatedFrom)
	next.RotatedTo = cmp.Or(k.RotatedTo, next.RotatedTo)
	return next
}

// fieldChanges compares the fields that a file can change, in the order in which a keys file has
// them.
func fieldChanges(old, next *keys.Key) []FieldChange {
	from, to := keyfile.FieldsOf(old), keyfile.FieldsOf(next)
	var out []FieldChange
	for _, f := range []struct{ field, from, to string }{
		{"name", from.Name, to.Name},
		{"note", from.Note, to.Note},
		{"plan", from.Plan, to.Plan},
		{"scopes", strings.Join(from.Scopes, " "), strings.Join(to.Scopes, " ")},
		{"ips", strings.Join(from.IPs, " "), strings.Join(to.IPs, " ")},
		{"limits", limitsText(from.Limits), limitsText(to.Limits)},
		{"extras", extrasText(from.Extras), extrasText(to.Extras)},
		{"status", from.Status, to.Status},
		{"expires_at", from.ExpiresAt, to.ExpiresAt},
		{"retires_at", from.RetiresAt, to.RetiresAt},
		{"limit_id", from.LimitID, to.LimitID},
		{"rotated_from", from.RotatedFrom, to.RotatedFrom},
		{"rotated_to", from.RotatedTo, to.RotatedTo},
		{"created_by", from.CreatedBy, to.CreatedBy},
		{"created_at", from.CreatedAt, to.CreatedAt},
		{"anchor_day", strconv.Itoa(from.AnchorDay), strconv.Itoa(to.AnchorDay)},
	} {
		if f.from != f.to {
			out = append(out, FieldChange{f.field, diffText(f.from), diffText(f.to)})
		}
	}
	return out
}

func limitsText(limits []keyfile.Limit) string {
	var out []string
	for _, l := range limits {
		out = append(out, l.Name+"="+strconv.FormatInt(l.Requests, 10))
	}
	return strings.Join(out, " ")
}

func extrasText(extras []keyfile.Extra) string {
	var out []string
	for _, x := range extras {
		out = append(out, x.Name+"+"+strconv.FormatInt(x.Requests, 10)+" until "+x.Until)
	}
	return strings.Join(out, ", ")
}

// diffText shows a value on one line; a secret that somebody put into a note stays hidden.
func diffText(s string) string {
	if s == "" {
		return "(none)"
	}
	return keys.Quote(s)
}

// do makes the changes one by one.
func (a *applier) do(ctx context.Context) error {
	var errs []error
	for i := range a.diff.Changes {
		c := &a.diff.Changes[i]
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("keys: apply stopped before %s: %w", c.ID, err))...)
		}
		if err := a.make(ctx, c); err != nil {
			c.Failed = err.Error()
			errs = append(errs, fmt.Errorf("%s %s: %w", c.Kind, c.ID, err))
		}
	}
	return errors.Join(errs...)
}

// make makes one change. If the key is no longer what was compared, that is an ErrConflict.
func (a *applier) make(ctx context.Context, c *Change) error {
	m := a.m
	switch {
	case c.Kind == ChangeDelete:
		var err error
		if c.old.Status != keys.Revoked {
			next := c.old.Clone()
			next.Status = keys.Revoked
			err = a.revoke(ctx, c.old, next)
		}
		if err != nil && !errors.Is(err, ErrUnconfirmed) {
			return err
		}
		_, deleted := m.Delete(ctx, c.ID)
		return errors.Join(err, deleted)
	case c.Kind == ChangeUpdate && c.next.Status == keys.Revoked && c.old.Status != keys.Revoked:
		return a.revoke(ctx, c.old, c.next)
	case c.Kind == ChangeUpdate:
		c.next.UpdatedAt = m.today()
		return m.auditedKey(ctx, roles.ActionUpdate, c.old, c.next, func(ctx context.Context) error {
			_, err := m.write(ctx, c.old, c.next)
			return err
		})
	}
	limit, err := m.capOf(c.next)
	if err != nil {
		return err
	}
	return m.auditedKey(ctx, roles.ActionCreate, nil, c.next, func(ctx context.Context) error {
		return m.store.CreateWithin(ctx, c.next, limit)
	})
}

func (a *applier) revoke(ctx context.Context, old, next *keys.Key) error {
	next.UpdatedAt = a.m.today()
	var unconfirmed error
	err := a.m.auditedKey(ctx, roles.ActionRevoke, old, next, func(ctx context.Context) (err error) {
		_, unconfirmed, err = a.m.revoke(ctx, old, next)
		return err
	})
	return errors.Join(unconfirmed, err)
}
