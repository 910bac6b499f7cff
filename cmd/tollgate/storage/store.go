// Package storage opens the store that the settings name: a Redis, or the embedded one, which a
// server runs in its own process and commands reach over its socket.
package storage

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

	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/settings"
	"tollgate/policy/connect"
)

// Store is the opened --store.
type Store struct {
	Client   redis.UniversalClient
	What     string // for people: logs and /readyz
	Address  string // for --addresses-file
	Embedded bool
	Close    func() error
}

// openRedis makes a client for a URL, or, if it is empty, for what the REDIS_
// variables in env say. It connects to nothing yet. Its errors show no password.
func openRedis(raw string, env func(string) string, deadline time.Duration, log *slog.Logger) (*Store, error) {
	if raw != "" && !strings.Contains(raw, "://") {
		return nil, fmt.Errorf("--store %q: want %s, or a URL such as redis://HOST:PORT", connect.Redact(raw), settings.EmbeddedStore)
	}
	client, what, err := connect.Open(connect.Options{URL: raw, Env: env, Deadline: deadline, Log: log})
	if err != nil && raw != "" {
		return nil, fmt.Errorf("--store %q: %w", connect.Redact(raw), err)
	}
	if err != nil {
		return nil, err // names the variable
	}
	return &Store{Client: client, What: "redis " + what, Address: what, Close: client.Close}, nil
}

// Open opens the store for a server: the embedded one is started. deadline is how
// long a decision may take.
func Open(s *settings.Shared, deadline time.Duration, log *slog.Logger) (*Store, error) {
	redis.SetLogger(redisLog{log})
	if s.Store == settings.EmbeddedStore {
		opened, err := openEmbedded(s.Socket)
		return opened, exit.Failed(err)
	}
	return openRedis(s.Store, os.Getenv, deadline, log)
}

// Connect makes the client of a command: the embedded store is that of a server on
// this machine.
func Connect(s *settings.Shared, stderr io.Writer) (*Store, error) {
	redis.SetLogger(redisLog{slog.New(slog.DiscardHandler)})
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	where := s.Store
	if where == settings.EmbeddedStore {
		socket, err := runningSocket(s.Socket)
		if err != nil {
			return nil, exit.Failed(err)
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
