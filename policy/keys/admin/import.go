package admin

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

const (
	// importBatch is how many records are written at once, and what a cancelled import still
	// finishes.
	importBatch = 500
	// batchTime bounds the writing of a batch, also when the caller's own time is up.
	batchTime = 30 * time.Second
	// maxShown is how many refused records a report holds; all of them are written to
	// ImportOptions.Refused.
	maxShown = 20
)

// ImportOptions says where records come from and who is told what.
type ImportOptions struct {
	keyfile.Defaults
	Source   string         // name of the file, for the audit stream
	SHA256   string         // of the file, hexadecimal, for the audit stream
	Total    int            // records that will come; 0 = not known
	Refused  io.Writer      // gets a line of JSON {line, id, reason} for each refused record; may be nil
	Progress func(Progress) // is called after each batch; may be nil
}

// Progress says how far an import is.
type Progress struct {
	Done  int           // records read
	Total int           // 0 = not known
	Rate  float64       // records a second since the start
	ETA   time.Duration // to the end at this rate; 0 if Total is not known
}

// Refusal says why a record was not taken. It holds no secret.
type Refusal struct {
	Line   int    `json:"line"`
	ID     string `json:"id,omitempty"`
	Reason string `json:"reason"`
}

// ImportReport counts what became of the records.
type ImportReport struct {
	Read    int       `json:"read"`
	Created int       `json:"created"`
	Skipped int       `json:"skipped"` // stood in the store just so
	Refused int       `json:"refused"`
	First   []Refusal `json:"first,omitempty"` // the first 20 refused ones

	Narrowed     int       `json:"narrowed,omitempty"` // of those created or already there: with restrictions that the source keeps elsewhere
	Ignored      int       `json:"ignored,omitempty"`  // parts of the source that are no keys and narrow none
	FirstIgnored []Refusal `json:"first_ignored,omitempty"`
}

// String gives the counts; those of what not every source has only where there are some.
func (r ImportReport) String() string {
	s := fmt.Sprintf("read %d: created %d, already there %d, refused %d", r.Read, r.Created, r.Skipped, r.Refused)
	if r.Narrowed > 0 {
		s += fmt.Sprintf(", narrowed %d", r.Narrowed)
	}
	if r.Ignored > 0 {
		s += fmt.Sprintf(", ignored %d", r.Ignored)
	}
	return s
}

// Import creates the keys that records describe, and changes none that stands. Plain secrets are
// hashed at once. A record is refused, and the others go on, if it is broken, if Rules does not
// know its plan, scopes and so on, if its secret or id belongs to another record or key, if Rules
// would never accept its secret, or if that is plain and there is no pepper, unless
// AllowUnpeppered. An id that is missing is derived from the secret's hash, so that the same source
// gives the same ids; a name that is missing is the id. A record with a version is one of Export
// and gets no date or maker. Caps are not looked at: an import takes over what exists. The same
// import again skips what stands and completes what was interrupted. When ctx ends, the batch under
// way is finished, and the report and ctx's error are returned. Other errors: a *ForbiddenError for
// all but the operator; ErrNotAudited; an ErrSource; an error of o.Refused; ErrOutcomeLost; any
// other means that the store did not answer, and the same import goes on from there. The report is
// right in each case.
func (m *Manager) Import(ctx context.Context, records iter.Seq2[keyfile.Record, error], o ImportOptions) (ImportReport, error) {
	if err := m.who.Check(roles.ActionImport, o.API, ""); err != nil {
		return ImportReport{}, err
	}
	intent := audit.NewEntry(m.who, roles.ActionImport, o.API, o.Team)
	after, err := json.Marshal(struct {
		Source  string `json:"source,omitempty"`
		SHA256  string `json:"sha256,omitempty"`
		Records int    `json:"records,omitempty"`
	}{o.Source, o.SHA256, o.Total})
	if err != nil {
		return ImportReport{}, err
	}
	intent.After = after
	id, err := m.audit.Intent(ctx, intent)
	if err != nil {
		return ImportReport{}, err
	}
	im := newImporter(m, o)
	err = im.run(ctx, records)
	result := audit.ResultOf(err) + ": " + im.report.String()
	return im.report, errors.Join(err, m.audit.Outcome(ctx, id, result))
}

type importer struct {
	m        *Manager
	o        ImportOptions
	size     int  // of a batch
	older    int  // methods of the hasher
	plain    bool // plain secrets may come
	report   ImportReport
	began    time.Time
	ids      map[string]int       // line on which each id was first seen
	digests  map[keys.Digest]int  // likewise for secrets
	refused  []Refusal            // of the batch under way
	resuming bool                 // some keys stand already
	standing map[string]*keys.Key // of an Apply: what the store has
}

func newImporter(m *Manager, o ImportOptions) *importer {
	return &importer{
		m: m, o: o, size: importBatch, older: m.hasher.Older(), plain: m.bare || m.hasher.Peppered(), began: m.now(),
		ids: map[string]int{}, digests: map[keys.Digest]int{},
	}
}

// candidate is a record on its way into the store.
type candidate struct {
	line     int
	key      *keys.Key
	older    []keys.Digest // of the same secret, by older methods
	narrowed bool          // by what the source says elsewhere

	dated, updated bool // the record said when the key was made, and changed
	versioned      bool // it said version
	anchored       bool // it said anchor_day
	counted        bool // it said limit_id
	state          bool // it said status
	signed         bool // it said who made the key
}

func (im *importer) run(ctx context.Context, records iter.Seq2[keyfile.Record, error]) error {
	batch := make([]*candidate, 0, im.size)
	for record, err := range records {
		if errors.Is(err, keyfile.ErrSource) {
			return errors.Join(im.write(ctx, batch), err)
		}
		var ignored *keyfile.IgnoredError
		if errors.As(err, &ignored) {
			im.ignore(record.Line, ignored)
		} else if c, err := im.take(record, err); err != nil {
			im.refuse(record.Line, record.Key.ID, err)
		} else {
			batch = append(batch, c)
		}
		if len(batch)+len(im.refused) < im.size {
			continue
		}
		if err := im.write(ctx, batch); err != nil {
			return err
		}
		batch = batch[:0]
	}
	return im.write(ctx, batch)
}

func (im *importer) ignore(line int, what *keyfile.IgnoredError) {
	r := &im.report
	if r.Ignored++; len(r.FirstIgnored) < maxShown {
		r.FirstIgnored = append(r.FirstIgnored, Refusal{Line: line, Reason: what.What})
	}
}

func (im *importer) refuse(line int, id string, why error) {
	if keys.IDProblem(id) != "" {
		id = ""
	}
	im.refused = append(im.refused, Refusal{line, id, why.Error()})
}

// take hashes the secret of a record. What is returned holds no secret any more.
func (im *importer) take(r keyfile.Record, broken error) (*candidate, error) {
	if broken != nil {
		return nil, broken
	}
	k := r.Key
	c := &candidate{
		line: r.Line, key: &k, dated: !k.CreatedAt.IsZero(),
		updated: !k.UpdatedAt.IsZero(), versioned: k.Version > 0, anchored: k.AnchorDay != 0, signed: k.CreatedBy != "",
		counted: k.LimitID != "", state: k.Status != "", narrowed: r.Narrowed,
	}
	if c.versioned { // an export, which leaves out only what is empty
		c.dated, c.updated, c.anchored, c.signed = true, true, true, true
	}
	if r.Plaintext() {
		if !im.plain {
			return nil, &keys.FieldError{Field: "secret", Problem: "is plain and needs a pepper: without one its hash could be guessed back"}
		}
		// From here on nobody knows the secret.
		if err := textSecret(anyText{}, nil, &k, r.Secret); err != nil {
			return nil, err
		}
		of := &keys.Key{API: cmp.Or(k.API, im.o.API), Environment: cmp.Or(k.Environment, im.o.Environment)}
		if err := im.m.rules.ValidateSecret(of, r.Secret); err != nil {
			return nil, err
		}
		k.Algorithm, k.Digest = keys.AlgorithmHMACSHA256, im.m.hasher.Digest(r.Secret)
		for i := range im.older {
			c.older = append(c.older, im.m.hasher.OlderDigest(i, r.Secret))
		}
	}
	return c, nil
}

// anyText are the Rules of nobody.
type anyText struct{ keys.Rules }

// HoldsSecret knows no form.
func (anyText) HoldsSecret(string, string) bool { return false }

// write finishes a batch, even if ctx ends meanwhile. What it does not finish is not counted.
func (im *importer) write(ctx context.Context, batch []*candidate) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("keys: import stopped: %w", err)
	}
	if len(batch)+len(im.refused) == 0 {
		return nil
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), batchTime)
	defer cancel()
	err := im.put(bounded, batch)
	if err := errors.Join(err, im.tell()); err != nil {
		return err
	}
	if im.o.Progress != nil {
		im.o.Progress(im.progress())
	}
	return nil
}

func (im *importer) put(ctx context.Context, batch []*candidate) error {
	if err := im.findOlder(ctx, batch); err != nil {
		return err
	}
	ready := make([]*candidate, 0, len(batch))
	for _, c := range batch {
		im.fill(c)
		if err := im.check(c); err != nil {
			im.refuse(c.line, c.key.ID, err)
			continue
		}
		ready = append(ready, c)
	}
	if im.resuming {
		var err error
		if ready, err = im.settle(ctx, ready, false); err != nil {
			return err
		}
	}
	ready, err := im.successors(ctx, ready)
	if err != nil {
		return err
	}
	return im.create(ctx, ready)
}

func (im *importer) create(ctx context.Context, batch []*candidate) error {
	if len(batch) == 0 {
		return nil
	}
	ks := make([]*keys.Key, len(batch))
	for i, c := range batch {
		ks[i] = c.key
	}
	var standing []*candidate
	var failed error
	for i, err := range im.m.store.CreateAll(ctx, ks) {
		var field *keys.FieldError
		switch c := batch[i]; {
		case err == nil:
			im.report.Created++
			im.report.Narrowed += c.count()
		case errors.Is(err, store.ErrExists), errors.Is(err, store.ErrSecretTaken):
			standing = append(standing, c)
		case errors.As(err, &field):
			im.refuse(c.line, c.key.ID, err)
		default:
			failed = err
		}
	}
	// From here on look first: that is cheaper than a try to create what is in use.
	im.resuming = im.resuming || len(standing) > 0
	_, err := im.settle(ctx, standing, true)
	return errors.Join(err, failed)
}

// findOlder looks for secrets that came in when another pepper was in use: their keys have another
// hash, and another id if that is derived from it.
func (im *importer) findOlder(ctx context.Context, batch []*candidate) error {
	if im.older == 0 {
		return nil
	}
	var digests []keys.Digest
	for _, c := range batch {
		digests = append(digests, c.older...)
	}
	places, err := im.m.store.SecretPlaces(ctx, digests)
	if err != nil {
		return err
	}
	for _, c := range batch {
		for _, d := range c.older {
			if places[0].ID != "" {
				c.key.Digest = d
			}
			places = places[1:]
		}
	}
	return nil
}

// fill sets what the record leaves out.
func (im *importer) fill(c *candidate) {
	k, o := c.key, &im.o
	k.API, k.Team = cmp.Or(k.API, o.API), cmp.Or(k.Team, o.Team)
	k.Environment, k.Plan = cmp.Or(k.Environment, o.Environment), cmp.Or(k.Plan, o.Plan)
	if k.Scopes == nil {
		k.Scopes = slices.Clone(o.Scopes)
	}
	if k.ID == "" {
		k.ID = derivedID(k.Digest)
	}
	k.Name, k.LimitID = cmp.Or(k.Name, k.ID), cmp.Or(k.LimitID, k.ID)
	k.Status, k.Version, k.Algorithm = cmp.Or(k.Status, keys.Active), cmp.Or(k.Version, 1), cmp.Or(k.Algorithm, keys.AlgorithmHMACSHA256)
	if !c.signed {
		k.CreatedBy = im.m.who.Who()
	}
	if !c.dated {
		k.CreatedAt = im.m.now().UTC().Truncate(time.Second)
	}
	c.follow()
}

// follow sets what depends on when the key was made.
func (c *candidate) follow() {
	k := c.key
	if !c.updated {
		k.UpdatedAt = k.CreatedAt
	}
	if !c.anchored {
		k.AnchorDay = k.CreatedAt.Day()
	}
}

// count is 1 for a key that the source narrows.
func (c *candidate) count() int {
	if c.narrowed {
		return 1
	}
	return 0
}

// derivedID is always the same for a secret under the same pepper, and tells nothing of its hash.
func derivedID(d keys.Digest) string {
	mac := hmac.New(sha256.New, []byte("tollgate imported key id v1"))
	mac.Write(d[:])
	sum := mac.Sum(nil)
	id := []byte("key_0000000000000000")
	for half := range 2 {
		n := binary.BigEndian.Uint64(sum[8*half:])
		for i := range 8 {
			id[len("key_")+8*half+i] = keys.Base62[n%62]
			n /= 62
		}
	}
	return string(id)
}

// check refuses what the store should not see.
func (im *importer) check(c *candidate) error {
	k := c.key
	if k.Status == keys.Deleted {
		return &keys.FieldError{Field: "status", Problem: `"deleted" is not active, inactive or revoked`}
	}
	if err := k.Validate(); err != nil {
		return err
	}
	if err := store.CheckGrowth(im.standing[k.ID], k, im.m.rules); err != nil {
		return err
	}
	if err := im.m.rules.ValidateKey(k); err != nil {
		return err
	}
	if !sameLimits(im.standing[k.ID], k) {
		if err := im.m.rules.ValidateLimits(k); err != nil {
			return err
		}
	}
	if err := textSecret(im.m.rules, nil, k, ""); err != nil {
		return err
	}
	digests := slices.Concat(c.older, []keys.Digest{k.Digest})
	for _, d := range digests {
		if line, ok := im.digests[d]; ok {
			return fmt.Errorf("the same secret as on line %d", line)
		}
	}
	if line, ok := im.ids[k.ID]; ok {
		return fmt.Errorf("id: %s again, first on line %d", keys.Quote(k.ID), line)
	}
	for _, d := range digests {
		im.digests[d] = c.line
	}
	im.ids[k.ID] = c.line
	return nil
}

// successors refuses keys whose predecessor is in the store and has not been rotated to them: an
// import does not change that one, and without that Repair would take its successor for one that
// was never finished.
func (im *importer) successors(ctx context.Context, batch []*candidate) (left []*candidate, err error) {
	var ids []string
	for _, c := range batch {
		if c.key.RotatedFrom != "" {
			ids = append(ids, c.key.RotatedFrom)
		}
	}
	if len(ids) == 0 {
		return batch, nil
	}
	all, err := im.m.store.ReadAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, c := range batch {
		if c.key.RotatedFrom == "" {
			left = append(left, c)
			continue
		}
		if old := all[0]; old.Err == nil && old.Key.RotatedTo != c.key.ID {
			im.refuse(c.line, c.key.ID, notRotatedTo(c.key))
		} else {
			left = append(left, c)
		}
		all = all[1:]
	}
	return left, nil
}

func notRotatedTo(k *keys.Key) error {
	return &keys.FieldError{Field: "rotated_from", Problem: keys.Quote(k.RotatedFrom) + " has not " + keys.Quote(k.ID) + " as rotated_to"}
}

// settle decides about candidates whose id or secret is in use, and returns those that are still to
// be created: none if they were tried.
func (im *importer) settle(ctx context.Context, batch []*candidate, tried bool) (left []*candidate, err error) {
	if len(batch) == 0 {
		return nil, nil
	}
	ids, digests := make([]string, len(batch)), make([]keys.Digest, len(batch))
	for i, c := range batch {
		ids[i], digests[i] = c.key.ID, c.key.Digest
	}
	found, err := im.m.store.ReadAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	places, err := im.m.store.SecretPlaces(ctx, digests)
	if err != nil {
		return nil, err
	}
	for i, c := range batch {
		missing := errors.Is(found[i].Err, store.ErrNoKey) && !errors.Is(found[i].Err, store.ErrDeleted)
		if !tried && (missing || places[i].Empty) {
			left = append(left, c)
		} else if why := c.difference(found[i], places[i]); why != nil {
			im.refuse(c.line, c.key.ID, why)
		} else {
			im.report.Skipped++
			im.report.Narrowed += c.count()
		}
	}
	return left, nil
}

// difference compares a candidate with the record that stands under its id, and the place of its
// secret.
func (c *candidate) difference(f store.Found, p store.SecretPlace) error {
	if p.Deleted && p.ID != c.key.ID {
		return fmt.Errorf("the secret was that of %s, which was deleted, and a secret is never used again", keys.Quote(p.ID))
	}
	if p.ID != "" && p.ID != c.key.ID {
		return fmt.Errorf("the secret belongs to %s, which is in the store", keys.Quote(p.ID))
	}
	old := f.Key
	switch {
	case errors.Is(f.Err, store.ErrDeleted):
		return fmt.Errorf("id: %s was deleted, and an id is never used again", keys.Quote(c.key.ID))
	case f.Err != nil:
		return fmt.Errorf("id: %s is in use by a record that cannot be read", keys.Quote(c.key.ID))
	case !old.AnswersTo(c.key.Digest) && !p.Former:
		return fmt.Errorf("id: %s is in use by a key with another secret", keys.Quote(c.key.ID))
	}
	// Where the source does not say, what was made up the first time stands.
	k := c.key
	k.Algorithm, k.Digest, k.Other = old.Algorithm, old.Digest, old.Other
	if !c.signed {
		k.CreatedBy = old.CreatedBy
	}
	if !c.dated {
		k.CreatedAt = old.CreatedAt
	}
	if !c.versioned { // a rehash changes it, and nothing else that is compared
		k.Version = old.Version
	}
	c.follow()
	want, err := store.EncodeRecord(k)
	if err != nil {
		return err
	}
	have, err := store.EncodeRecord(old)
	if err != nil {
		return err
	}
	if string(want) != string(have) {
		return fmt.Errorf("%s stands in the store with other details; import changes no key", keys.Quote(k.ID))
	}
	return nil
}

// tell writes down who was refused.
func (im *importer) tell() error {
	slices.SortStableFunc(im.refused, func(a, b Refusal) int { return cmp.Compare(a.Line, b.Line) })
	r := &im.report
	for _, refusal := range im.refused {
		r.Refused++
		if len(r.First) < maxShown {
			r.First = append(r.First, refusal)
		}
		if im.o.Refused == nil {
			continue
		}
		line, err := json.Marshal(refusal)
		if err == nil {
			_, err = im.o.Refused.Write(append(line, '\n'))
		}
		if err != nil {
			return fmt.Errorf("keys: a refused record could not be written down: %w", err)
		}
	}
	im.refused = im.refused[:0]
	r.Read = r.Created + r.Skipped + r.Refused
	return nil
}

func (im *importer) progress() Progress {
	p := Progress{Done: im.report.Read, Total: im.o.Total}
	if spent := im.m.now().Sub(im.began).Seconds(); spent > 0 {
		p.Rate = float64(p.Done) / spent
	}
	if left := p.Total - p.Done; left > 0 && p.Rate > 0 {
		p.ETA = time.Duration(float64(left) / p.Rate * float64(time.Second))
	}
	return p
}
