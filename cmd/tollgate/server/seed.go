package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"tollgate/cmd/tollgate/storage"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/keys/strictyaml"
	"tollgate/policy/policyfile"
)

const (
	// seedTimeout bounds one attempt to add all keys of the file.
	seedTimeout = 30 * time.Second
	// lookInterval is how often the store is looked at, for lookTimeout at most, and
	// firstPause the pause before the second look at one that was away.
	lookInterval = time.Second
	lookTimeout  = 5 * time.Second
	firstPause   = 100 * time.Millisecond
)

// readKeys reads the keys file, or every *.yaml of a directory, and checks each
// key against the policies. Errors name file and line.
func readKeys(path string, set *policy.Set, plaintext bool) ([]keyfile.Entry, admin.SeedSource, error) {
	from := admin.SeedSource{Source: path}
	files, err := policyfile.ReadKeyFiles(path)
	if err != nil {
		return nil, from, fmt.Errorf("--keys: %w", err)
	}
	content := sha256.New()
	var all []keyfile.Entry
	var faults []error
	seen := map[string]string{}
	for _, file := range files {
		content.Write(file.Data)
		entries, err := keyfile.ParseFile(file.Name, file.Data)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		at := &places{file: file}
		for i, e := range entries {
			faults = append(faults, keyFaults(at, i, e, set, plaintext)...)
			if other := seen[e.Key.ID]; other != "" && other != file.Name {
				faults = append(faults, fmt.Errorf("%s: key %s is in %s already", at.of(i, "id"), e.Key.ID, other))
			}
			seen[e.Key.ID] = file.Name
		}
		all = append(all, entries...)
	}
	if len(faults) > 0 {
		return nil, from, fmt.Errorf("--keys:\n%w", errors.Join(faults...))
	}
	from.SHA256 = hex.EncodeToString(content.Sum(nil))
	return all, from, nil
}

func keyFaults(at *places, i int, e keyfile.Entry, set *policy.Set, plaintext bool) (faults []error) {
	if err := set.ValidateKey(&e.Key); err != nil {
		faults = append(faults, fmt.Errorf("%s: key %s: %w", at.of(i, "id"), e.Key.ID, err))
	}
	if err := store.CheckGrowth(nil, &e.Key, set); err != nil {
		faults = append(faults, fmt.Errorf("%s: key %s: %w", at.of(i, "id"), e.Key.ID, err))
	}
	if e.Plaintext() {
		if err := set.ValidateSecret(&e.Key, e.Secret); err != nil {
			faults = append(faults, fmt.Errorf("%s: key %s: %w", at.of(i, "secret"), e.Key.ID, err))
		}
	}
	for field, text := range map[string]string{"name": e.Key.Name, "note": e.Key.Note, "team": e.Key.Team} {
		if set.HoldsSecret(e.Key.API, text) || e.Plaintext() && strings.Contains(text, e.Secret) {
			faults = append(faults, fmt.Errorf("%s: key %s: the %s holds what looks like a key", at.of(i, field), e.Key.ID, field))
		}
	}
	if e.Plaintext() && !plaintext {
		faults = append(faults, fmt.Errorf("%s: key %s: a plaintext secret is for the memory store only; write its hash",
			at.of(i, "secret"), e.Key.ID))
	}
	return faults
}

// places finds the keys of a file that was read before. It reads it again, once, when it is asked.
type places struct {
	file policyfile.File
	root *strictyaml.Node
}

// of returns file:line:col of a field of the i-th key, or the file alone.
func (p *places) of(i int, field string) string {
	if p.root == nil {
		p.root, _ = strictyaml.Read(string(p.file.Data))
	}
	list := p.root.Field("keys").Items()
	if i >= len(list) || list[i].Field(field) == nil {
		return p.file.Name
	}
	at := list[i].Field(field)
	return fmt.Sprintf("%s:%d:%d", p.file.Name, at.Line, at.Column)
}

// seeder brings the store and the keys of the file together, and keeps an eye on the
// store.
type seeder struct {
	storage  *storage.Store
	entries  []keyfile.Entry
	from     admin.SeedSource
	manager  *admin.Manager
	standing *standing.Standing
	report   *standingLog
	log      *slog.Logger

	away    bool   // the store was, at the start
	seeded  bool   // the keys are in the store, or were found to contradict it
	refused string // why, as it was last told
}

// serverActor is who changes keys by itself.
func serverActor() roles.Actor {
	name := "tollgate serve"
	if host, err := os.Hostname(); err == nil {
		name += " on " + host
	}
	return roles.Actor{Name: name, Operator: true}
}

// start tries once. A store that is away is not an error, and follow goes on trying. An
// error means that the file and the store contradict each other.
func (s *seeder) start(ctx context.Context) error {
	err := s.try(ctx)
	switch {
	case permanent(err):
		return err
	case err != nil:
		s.away = true
		s.log.Warn("the store is not reachable; starting without it, requests are answered as undecided until it is back",
			slog.String("store", s.storage.What), slog.Int("keys_waiting", len(s.entries)), slog.Any("error", err))
	}
	return nil
}

// follow looks at the store about once a second until ctx ends, and adds the keys if it
// could not at the start, or if the store was emptied. looked is called after each look.
func (s *seeder) follow(ctx context.Context, looked func()) {
	pause := lookInterval
	if s.away {
		pause = firstPause
	}
	for looked(); ; looked() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		err := s.try(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case permanent(err):
			s.seeded = true
			if s.refused != err.Error() {
				s.refused = err.Error()
				s.log.Error("the keys file does not fit the store; its remaining keys are not added", slog.Any("error", err))
			}
		case err == nil && s.away:
			s.away = false
			s.log.Info("the store is reachable now", slog.String("store", s.storage.What))
		}
		pause = min(2*pause, lookInterval)
	}
}

// try looks at the store, and adds the keys if they are to be there and are not.
func (s *seeder) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	looking, looked := context.WithTimeout(ctx, lookTimeout)
	defer looked()
	state, err := s.standing.Look(looking)
	s.report.tell(state)
	if err != nil && !s.seeded {
		return err
	}
	refill := state.Emptied && len(s.entries) > 0
	if !state.Fits || state.Pepper != nil || s.seeded && !refill {
		return nil
	}
	if err := s.seed(ctx); err != nil {
		return err
	}
	s.seeded = true
	if !refill {
		return nil
	}
	s.log.Warn("the store was emptied, and the keys of the file are in it again, as the file has them: what was changed since, revocations too, "+
		"and keys that are not in the file are lost", slog.Int("keys", len(s.entries)))
	err = s.standing.Refilled(ctx)
	s.report.tell(s.standing.State())
	return err
}

func (s *seeder) seed(ctx context.Context) error {
	if len(s.entries) == 0 {
		return nil
	}
	added, err := s.manager.Seed(ctx, s.entries, s.from)
	if err != nil {
		return err
	}
	s.log.Info("keys file read", slog.Int("keys", len(s.entries)), slog.Int("added", added))
	return nil
}

// permanent reports whether trying again cannot help.
func permanent(err error) bool {
	var field *keys.FieldError
	var corrupt *keys.CorruptError
	return errors.Is(err, store.ErrSecretTaken) || errors.As(err, &field) || errors.As(err, &corrupt)
}
