package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// Create adds a key: the lists that name it first, then its record, the way to it from the secret
// last, so that what a crash leaves behind never answers a request. The same Create again completes
// it, and so does Repair. Errors: a *FieldError; ErrExists if the id is known, as a tombstone too
// (nothing that stands is changed, but an interrupted create of the same id and secret is
// completed); ErrSecretTaken if another key has or had the secret, as a tombstone or before a
// rehash, then nothing of this one stays; a *CorruptError; any other error means that the store did
// not answer, and the key may be there or not.
func (s *Store) Create(ctx context.Context, k *keys.Key) error { return s.CreateWithin(ctx, k, nil) }

// CreateWithin is Create that keeps a cap: it fails with a *CapError if the key would be one active
// key too many. A nil cap is none.
func (s *Store) CreateWithin(ctx context.Context, k *keys.Key, limit *Cap) error {
	c := newCreation(k)
	if c.err != nil {
		return c.err
	}
	if limit != nil {
		if err := s.enlist(ctx, k, limit); err != nil {
			return err
		}
		c.enlisted = true
	}
	s.create(ctx, []*creation{c})
	return c.err
}

// CreateAll is Create of many keys in a few round trips; up to some thousands at once. errs has one
// place for each key, nil for those that were made.
func (s *Store) CreateAll(ctx context.Context, ks []*keys.Key) (errs []error) {
	all := make([]*creation, len(ks))
	for i, k := range ks {
		all[i] = newCreation(k)
	}
	s.create(ctx, all)
	errs = make([]error, len(ks))
	for i, c := range all {
		errs[i] = c.err
	}
	return errs
}

// creation is a key on its way into the store.
type creation struct {
	k        *keys.Key
	data     []byte
	enlisted bool // its team's set has it, or it is in none
	err      error
	made     bool   // the record is this call's
	standing []byte // the record, if it is not
	owner    string // whom the secret leads to
	linked   bool   // the way from the secret is this call's
}

func newCreation(k *keys.Key) *creation {
	c := &creation{k: k}
	c.data, c.err = EncodeRecord(k)
	return c
}

// mayLink reports whether the record is one that the secret may lead to.
func (c *creation) mayLink() bool {
	return c.err == nil && (c.recorded() || interrupted(c.standing, c.k))
}

// recorded reports whether the record that stands is the key's as it is, of this call or an earlier
// one.
func (c *creation) recorded() bool { return c.made || bytes.Equal(c.standing, c.data) }

// interrupted reports whether the record that stands could be half of a create of k with other
// details. A tombstone is not: its secret must stay unknown.
func interrupted(standing []byte, k *keys.Key) bool {
	old, err := decodeRecord(standing)
	return err == nil && old.Status != keys.Deleted && k.AnswersTo(old.Digest)
}

func (s *Store) create(ctx context.Context, all []*creation) {
	s.listKeys(ctx, all)
	s.putRecords(ctx, all)
	s.linkSecrets(ctx, all)
	var left []*creation
	for _, c := range all {
		c.conclude()
		if errors.Is(c.err, ErrExists) || errors.Is(c.err, ErrSecretTaken) {
			left = append(left, c)
		}
	}
	s.clean(ctx, left)
}

// conclude says how the create went, once everything is known.
func (c *creation) conclude() {
	switch {
	case c.err != nil:
	case !c.mayLink():
		c.err = ErrExists
	case c.linked && c.recorded(), c.owner == c.k.ID && c.made:
	case c.linked, c.owner == c.k.ID:
		c.err = ErrExists
	default:
		c.err = ErrSecretTaken
		if parseSecretPlace(c.owner).Deleted {
			c.err = ErrSecretDeleted
		}
	}
}

// each sends what queue adds for each creation without error in one round trip; queue returns what
// to do with the replies, which are there by then.
func (s *Store) each(ctx context.Context, all []*creation, queue func(redis.Pipeliner, *creation) func()) {
	var after []func()
	s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, c := range all {
			if c.err == nil {
				after = append(after, queue(p, c))
			}
		}
		return nil
	})
	for _, f := range after {
		f()
	}
}

// listKeys puts the keys into the lists of their APIs and the lists and sets of their teams.
func (s *Store) listKeys(ctx context.Context, all []*creation) {
	apis := map[string]bool{}
	s.each(ctx, all, func(p redis.Pipeliner, c *creation) func() {
		var replies []redis.Cmder
		if !apis[c.k.API] {
			apis[c.k.API] = true
			replies = append(replies, p.SAdd(ctx, apisKey, c.k.API))
		}
		for _, list := range indexKeys(c.k) {
			replies = append(replies, p.ZAdd(ctx, list, redis.Z{Member: c.k.ID}))
		}
		return func() {
			for _, r := range replies {
				if err := r.Err(); err != nil && c.err == nil {
					c.err = ReadError(ctx, c.k.ID, err)
				}
			}
		}
	})
	s.enlistAll(ctx, all)
}

// putRecords writes the records of ids that have none, and reads those that stand.
func (s *Store) putRecords(ctx context.Context, all []*creation) {
	s.each(ctx, all, func(p redis.Pipeliner, c *creation) func() {
		reply := p.SetArgs(ctx, recordKey(c.k.ID), c.data, redis.SetArgs{Mode: "NX", Get: true})
		return func() {
			text, err := reply.Result()
			switch {
			case errors.Is(err, redis.Nil):
				c.made = true
			case err != nil:
				c.err = ReadError(ctx, c.k.ID, err)
			default:
				c.standing = []byte(text)
			}
		}
	})
}

// linkSecrets leads the digests that lead nowhere to their keys.
func (s *Store) linkSecrets(ctx context.Context, all []*creation) {
	var linking []*creation
	var calls []scriptCall
	for _, c := range all {
		if c.mayLink() {
			linking = append(linking, c)
			calls = append(calls, s.linkCall("link", c.k.Digest, c.k.ID))
		}
	}
	for i, reply := range s.run(ctx, calls) {
		c := linking[i]
		c.linked, c.owner, c.err = linkReply(ctx, c.k.ID, reply)
	}
}

func (s *Store) linkCall(what string, d keys.Digest, id string) scriptCall {
	return scriptCall{script: s.scripts.link, keys: []string{secretKey(d)}, args: []any{id, what, changesChannel, d.Hex()}, takes: what != "link"}
}

func linkReply(ctx context.Context, id string, reply *redis.Cmd) (done bool, owner string, err error) {
	values, err := reply.Slice()
	if err != nil {
		return false, "", ReadError(ctx, id, err)
	}
	n, _ := values[0].(int64)
	owner, _ = values[1].(string)
	return n == 1, owner, nil
}

// link leads d to id if its place is empty, or an earlier one of the same key, else returns what
// the place holds.
func (s *Store) link(ctx context.Context, d keys.Digest, id string) (owner string, linked bool, err error) {
	linked, owner, err = linkReply(ctx, id, s.run(ctx, []scriptCall{s.linkCall("link", d, id)})[0])
	return owner, linked, err
}

// tombstoneLink makes sure that d, a digest of the deleted key with this id, leads nowhere and to
// no other key ever after.
func (s *Store) tombstoneLink(ctx context.Context, d keys.Digest, id string) error {
	_, _, err := linkReply(ctx, id, s.run(ctx, []scriptCall{s.linkCall("tombstone", d, id)})[0])
	return err
}

// retire makes sure that d, an earlier digest of the key with this id, leads nowhere and to no
// other key ever after, unless it leads to another one already.
func (s *Store) retire(ctx context.Context, d keys.Digest, id string) error {
	_, _, err := linkReply(ctx, id, s.run(ctx, []scriptCall{s.linkCall("retire", d, id)})[0])
	return err
}

// unlink leads d nowhere if it leads to id.
func (s *Store) unlink(ctx context.Context, d keys.Digest, id string) (done bool, err error) {
	done, _, err = linkReply(ctx, id, s.run(ctx, []scriptCall{s.linkCall("unlink", d, id)})[0])
	return done, err
}

// clean takes back what creates that failed have written, unless it belongs to the key that stands.
func (s *Store) clean(ctx context.Context, left []*creation) {
	for _, c := range left {
		if c.made {
			if err := s.dropRecord(ctx, c.k.ID, c.data); err != nil {
				c.err = errors.Join(c.err, err)
				continue
			}
		}
		stands := &keys.Key{}
		if old, err := decodeRecord(c.standing); !c.made && err == nil && !old.IsTombstone() {
			stands = old
		}
		if err := s.unlist(ctx, c.k, stands); err != nil {
			c.err = errors.Join(c.err, err)
		}
	}
}

// dropRecord removes the record of id if it is still data.
func (s *Store) dropRecord(ctx context.Context, id string, data []byte) error {
	if err := s.scripts.unmake.Run(ctx, s.client, []string{recordKey(id)}, data).Err(); err != nil {
		return fmt.Errorf("keys: the unused record of %s is left behind: %w", id, ReadError(ctx, id, err))
	}
	return nil
}

// Discard removes a key that nobody has been told of, and leaves no tombstone. Errors: a
// *CorruptError; any other means that the store did not answer.
func (s *Store) Discard(ctx context.Context, k *keys.Key) error {
	if _, err := s.unlink(ctx, k.Digest, k.ID); err != nil {
		return err
	}
	data, err := EncodeRecord(k)
	if err != nil {
		return err
	}
	if err := s.dropRecord(ctx, k.ID, data); err != nil {
		return err
	}
	return s.unlist(ctx, k, &keys.Key{})
}

// Unseen counts the keys that a Create would do something for: those without a record, and those
// whose create was cut short. An error means that the store did not answer.
func (s *Store) Unseen(ctx context.Context, ks []*keys.Key) (n int, err error) {
	ids, digests := make([]string, len(ks)), make([]keys.Digest, len(ks))
	for i, k := range ks {
		ids[i], digests[i] = k.ID, k.Digest
	}
	found, err := s.ReadAll(ctx, ids)
	if err != nil {
		return 0, err
	}
	places, err := s.SecretPlaces(ctx, digests)
	if err != nil {
		return 0, err
	}
	for i, f := range found {
		cut := f.Err == nil && places[i].ID == "" && f.Key.AnswersTo(ks[i].Digest)
		if errors.Is(f.Err, ErrNoKey) && !errors.Is(f.Err, ErrDeleted) || cut {
			n++
		}
	}
	return n, nil
}
