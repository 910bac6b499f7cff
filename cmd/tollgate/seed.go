package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/smallfile"
	"tollgate/policy/policyfile"
)

const (
	// seedTimeout bounds one attempt to add all keys of the file.
	seedTimeout = 30 * time.Second
	// The pauses between attempts to reach a store that is away.
	firstPause  = 100 * time.Millisecond
	longestWait = 5 * time.Second
)

// readKeys reads the keys file, or every *.yaml of a directory, and checks each
// key against the policies. Errors name file and line.
func readKeys(path string, set *policy.Set, plaintext bool) ([]keys.Entry, keys.SeedSource, error) {
	from := keys.SeedSource{Source: path}
	files, err := policyfile.ReadKeyFiles(path)
	if err != nil {
		return nil, from, fmt.Errorf("--keys: %w", err)
	}
	content := sha256.New()
	var all []keys.Entry
	var faults []error
	seen := map[string]string{}
	for _, file := range files {
		content.Write(file.Data)
		entries, err := keys.ParseFile(file.Name, file.Data)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for i, e := range entries {
			faults = append(faults, keyFaults(file, i, e, set, plaintext)...)
			if other := seen[e.Key.ID]; other != "" && other != file.Name {
				faults = append(faults, fmt.Errorf("%s: key %s is in %s already", placeOfKey(file, i, "id"), e.Key.ID, other))
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

func keyFaults(file policyfile.File, i int, e keys.Entry, set *policy.Set, plaintext bool) (faults []error) {
	if err := set.ValidateKey(&e.Key); err != nil {
		faults = append(faults, fmt.Errorf("%s: key %s: %w", placeOfKey(file, i, "id"), e.Key.ID, err))
	}
	if err := keys.CheckSize(&e.Key, set); err != nil {
		faults = append(faults, fmt.Errorf("%s: key %s: %w", placeOfKey(file, i, "id"), e.Key.ID, err))
	}
	if e.Plaintext() {
		if err := set.ValidateSecret(&e.Key, e.Secret); err != nil {
			faults = append(faults, fmt.Errorf("%s: key %s: %w", placeOfKey(file, i, "secret"), e.Key.ID, err))
		}
	}
	for field, text := range map[string]string{"name": e.Key.Name, "note": e.Key.Note, "team": e.Key.Team} {
		if set.HoldsSecret(e.Key.API, text) || e.Plaintext() && strings.Contains(text, e.Secret) {
			faults = append(faults, fmt.Errorf("%s: key %s: the %s holds what looks like a key", placeOfKey(file, i, field), e.Key.ID, field))
		}
	}
	if e.Plaintext() && !plaintext {
		faults = append(faults, fmt.Errorf("%s: key %s: a plaintext secret is for the memory store only; write its hash",
			placeOfKey(file, i, "secret"), e.Key.ID))
	}
	return faults
}

// placeOfKey returns file:line:col of a field of the i-th key, or the file alone.
func placeOfKey(file policyfile.File, i int, field string) string {
	parsed, err := parser.ParseBytes(file.Data, 0)
	if err != nil {
		return file.Name
	}
	path, err := yaml.PathString(fmt.Sprintf("$.keys[%d].%s", i, field))
	if err != nil {
		return file.Name
	}
	node, err := path.FilterFile(parsed)
	if err != nil || node == nil {
		return file.Name
	}
	at := node.GetToken().Position
	return fmt.Sprintf("%s:%d:%d", file.Name, at.Line, at.Column)
}

// seeder brings the store and the keys of the file together.
type seeder struct {
	store   *store
	entries []keys.Entry
	from    keys.SeedSource
	manager *keys.Manager
	hasher  *keys.Hasher
	log     *slog.Logger

	wrong atomic.Pointer[string] // what is wrong with the pepper; nil if nothing is known to be
}

// problem is what /readyz says of the pepper.
func (s *seeder) problem() string {
	if wrong := s.wrong.Load(); wrong != nil {
		return *wrong
	}
	return ""
}

// checkPepper says it loudly if the store's keys are hashed with a pepper that this server does not have. The server
// starts all the same: it may be the only one with the right one, and keys in memory of others go on.
func (s *seeder) checkPepper(ctx context.Context) error {
	changed, err := keys.NewStore(s.store.client).CheckPepper(ctx, s.hasher, true)
	var corrupt *keys.CorruptError
	switch {
	case errors.Is(err, keys.ErrPepper), errors.As(err, &corrupt):
		text := plainError{err}.Error()
		s.wrong.Store(&text)
		s.log.Error("THE PEPPER IS NOT THAT OF THE KEYS IN THE STORE: none of them will be found", slog.String("problem", text))
		return nil
	case changed:
		s.log.Info("the pepper has changed: keys are hashed anew as they are used")
	}
	return err
}

// serverActor is who changes keys by itself.
func serverActor() keys.Actor {
	name := "tollgate serve"
	if host, err := os.Hostname(); err == nil {
		name += " on " + host
	}
	return keys.Actor{Name: name, Operator: true}
}

// start tries once. A store that is away is not an error: done is false then, and
// follow goes on trying. An error means that the file and the store contradict
// each other.
func (s *seeder) start(ctx context.Context) (done bool, err error) {
	err = s.try(ctx)
	if err == nil || permanent(err) {
		return err == nil, err
	}
	s.log.Warn("the store is not reachable; starting without it, requests are answered as undecided until it is back",
		slog.String("store", s.store.what), slog.Int("keys_waiting", len(s.entries)), slog.Any("error", err))
	return false, nil
}

// follow tries with growing pauses until the store has the keys or ctx ends.
func (s *seeder) follow(ctx context.Context) {
	pause := firstPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		err := s.try(ctx)
		switch {
		case err == nil:
			s.log.Info("the store is reachable now", slog.String("store", s.store.what))
			return
		case ctx.Err() != nil:
			return
		case permanent(err):
			s.log.Error("the keys file does not fit the store; its remaining keys are not added", slog.Any("error", err))
			return
		}
		pause = min(2*pause, longestWait)
		s.log.Debug("the store is still not reachable", slog.Any("error", err), slog.Duration("next_try_in", pause))
	}
}

func (s *seeder) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	if err := s.store.ping(ctx); err != nil {
		return err
	}
	if err := s.checkPepper(ctx); err != nil {
		return err
	}
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
	return errors.Is(err, keys.ErrSecretTaken) || errors.As(err, &field) || errors.As(err, &corrupt)
}

// pepper returns the secret that keys are hashed with, nil if there is none.
func (s *settings) pepper() ([]byte, error) {
	if s.pepperFile == "" {
		return []byte(s.pepperText), nil
	}
	data, err := smallfile.Read(s.pepperFile, maxSmall)
	if err != nil {
		return nil, fmt.Errorf("--pepper-file: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return nil, fmt.Errorf("--pepper-file: %s is empty", s.pepperFile)
	}
	return []byte(text), nil
}
