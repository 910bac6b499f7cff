package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
)

// store is the opened --store.
type store struct {
	client   redis.UniversalClient
	what     string // for people: logs and /readyz
	address  string // for --addresses-file
	embedded bool
	close    func() error
}

// openRedis makes a client for a URL, or, if it is empty, for what the REDIS_
// variables in env say. It connects to nothing yet. Its errors show no password.
func openRedis(raw string, env func(string) string, deadline time.Duration, log *slog.Logger) (*store, error) {
	if raw != "" && !strings.Contains(raw, "://") {
		return nil, fmt.Errorf("--store %q: want %s, or a URL such as redis://HOST:PORT", connect.Redact(raw), embeddedStore)
	}
	client, what, err := connect.Open(connect.Options{URL: raw, Env: env, Deadline: deadline, Log: log})
	if err != nil && raw != "" {
		return nil, fmt.Errorf("--store %q: %w", connect.Redact(raw), err)
	}
	if err != nil {
		return nil, err // names the variable
	}
	return &store{client: client, what: "redis " + what, address: what, close: client.Close}, nil
}

// openStore opens the store for a server: the embedded one is started. deadline is how
// long a decision may take.
func openStore(s *shared, deadline time.Duration, log *slog.Logger) (*store, error) {
	redis.SetLogger(redisLog{log})
	if s.store == embeddedStore {
		opened, err := openEmbedded(s.socket)
		return opened, failed(err)
	}
	return openRedis(s.store, os.Getenv, deadline, log)
}

// connectStore makes the client of a command: the embedded store is that of a server on
// this machine.
func connectStore(s *shared, stderr io.Writer) (*store, error) {
	redis.SetLogger(redisLog{slog.New(slog.DiscardHandler)})
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	where := s.store
	if where == embeddedStore {
		socket, err := runningSocket(s.socket)
		if err != nil {
			return nil, failed(err)
		}
		where = (&url.URL{Scheme: "unix", Path: socket}).String()
	}
	return openRedis(where, os.Getenv, 0, log)
}

// runningSocket returns the path on which a server with the memory store
// listens.
func runningSocket(path string) (string, error) {
	if path == "" {
		var err error
		if path, err = defaultSocket(); err != nil {
			return "", fmt.Errorf("--store-socket: %w", err)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("--store-socket: %w", err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no tollgate serve with a memory store runs here (there is no %s): start one, or say where the keys are with --store redis://HOST:PORT", path)
	}
	return path, nil
}

// redisLog takes what go-redis says of its own accord, mostly each failed dial,
// which is a line per request while the store is away.
type redisLog struct{ log *slog.Logger }

// Printf implements go-redis' logging interface.
func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, fmt.Sprintf(format, v...))
	}
}
