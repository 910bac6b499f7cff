package main

import (
	"fmt"
	"log/slog"
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
