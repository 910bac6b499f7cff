package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
)

// What a read or a change of a key by its id can find. Test with errors.Is.
var (
	ErrNoKey      = errors.New("keys: there is no such key")
	ErrDeleted    = fmt.Errorf("%w: it was deleted", ErrNoKey) // is an ErrNoKey
	ErrFinal      = errors.New("keys: the key is revoked, which is final")
	ErrConflict   = errors.New("keys: the key was changed by somebody else meanwhile; read it again")
	ErrNotRevoked = errors.New("keys: only a revoked key can be deleted")
)

// MaxTries bounds how often a change that somebody else overtook is made again. Of any number of
// changes at a time one always gets through, so this is also how many may come at once.
const MaxTries = 50

// Get returns the key with this id, whatever its status, with LastUsed. Errors: a *FieldError for a
// text that is no id; ErrNoKey, ErrDeleted; a *CorruptError; any other means that the store did not
// answer.
func (s *Store) Get(ctx context.Context, id string) (*keys.Key, error) {
	if problem := keys.IDProblem(id); problem != "" {
		return nil, &keys.FieldError{Field: "id", Problem: problem}
	}
	all, err := s.ReadAll(ctx, []string{id})
	if err != nil {
		return nil, err
	}
	if all[0].Err != nil {
		return nil, all[0].Err
	}
	return all[0].Key, nil
}

// Write replaces the record of old by next and publishes that, in one step; the set of the key's
// team follows. It returns what it wrote: next with the version after that of old; a key beside an
// error is written, and its team's set is not. Errors: a *FieldError, also for a field that never
// changes (id, API, team, environment, digest); ErrConflict if old is not what stands; ErrFinal for
// a revoked key that would be used again; ErrNoKey, ErrDeleted; a *CorruptError; any other means
// that the store did not answer, and the change may be made or not.
func (s *Store) Write(ctx context.Context, old, next *keys.Key) (*keys.Key, error) {
	return s.WriteWithin(ctx, old, next, nil)
}

// WriteWithin is Write that keeps a cap: it fails with a *CapError if the key would be one active
// key too many. A nil cap is none.
func (s *Store) WriteWithin(ctx context.Context, old, next *keys.Key, limit *Cap) (*keys.Key, error) {
	return s.write(ctx, s.client, old, next, limit)
}

// write is WriteWithin on a connection.
func (s *Store) write(ctx context.Context, c redis.Scripter, old, next *keys.Key, limit *Cap) (*keys.Key, error) {
	next, err := nextVersion(old, next)
	if err != nil {
		return nil, err
	}
	// A key that starts to count is noted before it does, one that no longer counts after it.
	starts := CountsForCap(next) && (limit != nil || !CountsForCap(old))
	if starts {
		if err := s.enlist(ctx, next, limit); err != nil {
			return nil, err
		}
	}
	if err := s.change(ctx, c, old, next, next.Digests()...); err != nil {
		if starts && !IsUncertain(err) {
			return nil, errors.Join(err, s.relist(ctx, next.ID, next.Version))
		}
		return nil, err
	}
	if !starts && teamEntryOf(old) != teamEntryOf(next) {
		err = s.enlist(ctx, next, nil)
	}
	return next, err
}

// nextVersion returns next as it will be written.
func nextVersion(old, next *keys.Key) (*keys.Key, error) {
	next = next.Clone()
	for _, f := range []struct{ field, before, after string }{
		{"id", old.ID, next.ID}, {"api", old.API, next.API}, {"team", old.Team, next.Team},
		{"environment", old.Environment, next.Environment}, {"algorithm", old.Algorithm, next.Algorithm},
	} {
		if f.before != f.after {
			return nil, &keys.FieldError{Field: f.field, Problem: "never changes"}
		}
	}
	if old.Digest != next.Digest || old.Other != next.Other {
		return nil, &keys.FieldError{Field: "hash", Problem: "never changes this way"}
	}
	if next.Status == keys.Deleted {
		return nil, &keys.FieldError{Field: "status", Problem: "deleted is what Delete makes"}
	}
	next.Version = old.Version + 1
	return next, next.Validate()
}

// change runs the script that replaces the record, and publishes digests.
func (s *Store) change(ctx context.Context, c redis.Scripter, old, next *keys.Key, digests ...keys.Digest) error {
	data, err := EncodeRecord(next)
	if err != nil {
		return err
	}
	args := []any{old.Version, old.Hash(), string(next.Status), data, next.ID, changesChannel}
	for _, d := range digests {
		args = append(args, d.Hex())
	}
	run := s.scripts.change.Run
	if takesRights(next.Status) {
		run = s.evenFull(s.scripts.change)
	}
	reply, err := run(ctx, c, []string{recordKey(next.ID), usedKey(next.ID)}, args...).Text()
	if err != nil {
		return ReadError(ctx, next.ID, err)
	}
	switch reply {
	case "done":
		return nil
	case "missing":
		return ErrNoKey
	case "deleted":
		return ErrDeleted
	case "final":
		return ErrFinal
	case "alive":
		return ErrNotRevoked
	case "conflict":
		return ErrConflict
	}
	return &keys.CorruptError{ID: next.ID, Err: errors.New("it is not a record")}
}

// IsUncertain reports whether an error of change leaves open if the change was made.
func IsUncertain(err error) bool {
	var field *keys.FieldError
	var corrupt *keys.CorruptError
	return !errors.Is(err, ErrNoKey) && !errors.Is(err, ErrFinal) && !errors.Is(err, ErrConflict) &&
		!errors.Is(err, ErrNotRevoked) && !errors.As(err, &field) && !errors.As(err, &corrupt)
}

// relist notes a key in its team's set as it stands now, in place of a note for a version that was
// not written.
func (s *Store) relist(ctx context.Context, id string, noted int64) error {
	k, err := s.Get(ctx, id)
	if errors.Is(err, ErrNoKey) {
		return nil
	}
	if err != nil {
		return err
	}
	k.Version = max(k.Version, noted)
	return s.enlist(ctx, k, nil)
}

// Delete removes a revoked key: the way to it from its secret first, then its record. Both become
// tombstones, so that nothing revives the id or the secret. The same Delete again completes an
// interrupted one. Errors: ErrNotRevoked; ErrNoKey, ErrDeleted; a *CorruptError; any other means
// that the store did not answer.
func (s *Store) Delete(ctx context.Context, k *keys.Key) error {
	k, err := s.Get(ctx, k.ID)
	if err != nil {
		return err
	}
	if k.Status != keys.Revoked {
		return ErrNotRevoked
	}
	return s.makeTombstones(ctx, k)
}

// makeTombstones makes tombstones of a revoked key and of its secret, and takes it out of all
// lists.
func (s *Store) makeTombstones(ctx context.Context, k *keys.Key) error {
	for range MaxTries {
		// Revoked is final: it still is when the next steps are made. Both digests of an unfinished
		// rehash are the secret's.
		for _, d := range k.Digests() {
			if err := s.tombstoneLink(ctx, d, k.ID); err != nil {
				return err
			}
		}
		tombstone := &keys.Key{ID: k.ID, API: k.API, Status: keys.Deleted, Version: k.Version + 1}
		err := s.change(ctx, s.client, k, tombstone)
		if err == nil || errors.Is(err, ErrDeleted) {
			return s.unlist(ctx, k, &keys.Key{})
		}
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if k, err = s.Get(ctx, k.ID); err != nil {
			return err
		}
	}
	return ErrConflict
}

// Rehash replaces the digest of a key. No other key can have the old one afterwards, also when this
// one is deleted. The key answers to one of the two at every moment, and to both for some; the same
// Rehash again completes an interrupted one. Errors: ErrConflict if the key has another digest than
// from; ErrFinal for a revoked one; ErrSecretTaken; ErrNoKey, ErrDeleted; a *CorruptError; any
// other means that the store did not answer.
func (s *Store) Rehash(ctx context.Context, id string, from, to keys.Digest) error {
	if from == to || to == (keys.Digest{}) {
		return &keys.FieldError{Field: "hash", Problem: "is not another one"}
	}
	for range MaxTries {
		k, err := s.Get(ctx, id)
		if err != nil {
			return err
		}
		done, err := s.rehashStep(ctx, k, from, to)
		if done || err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
		if err != nil && k.Digest != from && k.Digest != to {
			return ErrConflict
		}
	}
	return ErrConflict
}

// rehashStep makes the next step of a rehash. The record says how far it is: the new digest is
// noted beside the old one, then a secret leads there, then the two change places, then, once it is
// sure that a secret still leads there, none leads to the old one ever again, then the record
// forgets it.
func (s *Store) rehashStep(ctx context.Context, k *keys.Key, from, to keys.Digest) (done bool, err error) {
	next := k.Clone()
	next.Version++
	switch {
	case k.Status == keys.Revoked || k.Status == keys.Deleted:
		return false, ErrFinal
	case k.Digest == from && k.Other != to:
		next.Other = to
		return false, s.change(ctx, s.client, k, next)
	case k.Digest == from:
		owner, _, err := s.link(ctx, to, k.ID)
		if err != nil {
			return false, err
		}
		if owner != k.ID {
			next.Other = keys.Digest{}
			return false, errors.Join(ErrSecretTaken, s.change(ctx, s.client, k, next))
		}
		next.Digest, next.Other, next.Algorithm = to, from, keys.AlgorithmHMACSHA256
		return false, s.change(ctx, s.client, k, next)
	case k.Digest == to && k.Other != (keys.Digest{}):
		// A Repair that undid an earlier try could have retired the new digest after it was led
		// here, and before the record said that it holds.
		if _, _, err := s.link(ctx, to, k.ID); err != nil {
			return false, err
		}
		if err := s.retire(ctx, k.Other, k.ID); err != nil {
			return false, err
		}
		next.Other = keys.Digest{}
		return false, s.change(ctx, s.client, k, next)
	case k.Digest == to:
		return true, nil
	}
	return false, ErrConflict
}
