package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// dialTimeout bounds a connection attempt. It may be longer than a decision's
// deadline: go-redis dials in the background, the decision stops waiting at its
// own deadline, and a TLS handshake over a slow network still completes for the
// next one.
const dialTimeout = time.Second

// store is the opened --store.
type store struct {
	client   redis.UniversalClient
	what     string // for people: logs and /readyz
	address  string // for --addresses-file
	embedded bool
	close    func() error
}

// ping asks the store whether it is there.
func (s *store) ping(ctx context.Context) error { return s.client.Ping(ctx).Err() }

// openRedis makes a client for a redis:// or rediss:// URL. It connects to
// nothing yet. The errors do not show the URL's password.
func openRedis(raw string, deadline time.Duration) (*store, error) {
	shown := redactURL(raw)
	if scheme, _, _ := strings.Cut(raw, "://"); scheme != "redis" && scheme != "rediss" {
		return nil, fmt.Errorf("--store %q: want memory, redis://[USER:PASSWORD@]HOST:PORT[/DB] or rediss://… for TLS", shown)
	}
	options, err := redis.ParseURL(raw)
	if err != nil {
		return nil, fmt.Errorf("--store %q: %w", shown, urlProblem(raw, err))
	}
	// A spend whose answer was lost may have been spent: it is never sent twice.
	options.MaxRetries = -1
	options.ContextTimeoutEnabled = true
	setTimeouts(options, deadline)
	withoutExtras(options)
	client := redis.NewClient(options)
	return &store{client: client, what: "redis " + shown, address: shown, close: client.Close}, nil
}

// setTimeouts keeps every wait below the deadline of a decision, unless the URL
// says otherwise; the decision's own deadline holds in any case.
func setTimeouts(o *redis.Options, deadline time.Duration) {
	below := deadline * 9 / 10
	for _, timeout := range []*time.Duration{&o.ReadTimeout, &o.WriteTimeout, &o.PoolTimeout} {
		if *timeout == 0 {
			*timeout = below
		}
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = dialTimeout
	}
	o.DialerRetries = 1
}

// withoutExtras leaves out what go-redis asks a server at each new connection
// beyond its greeting: servers and ACLs that do not know it slow the first
// request down or refuse it.
func withoutExtras(o *redis.Options) {
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// redactURL returns a URL without user, password and query, also where it is no
// URL: everything from "://" to the last "@" goes, and without an "@" everything,
// if a password could be in it.
func redactURL(raw string) string {
	const hidden = "xxxxx"
	scheme, rest, ok := strings.Cut(raw, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", raw
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		rest = hidden + rest[i:]
	} else if mayHoldPassword(rest) {
		rest = hidden
	}
	if i := strings.IndexByte(rest, '?'); i >= 0 {
		rest = rest[:i] + "?…"
	}
	return scheme + rest
}

// mayHoldPassword reports whether what follows "://" is more than HOST[:PORT] and
// a path.
func mayHoldPassword(rest string) bool {
	if strings.Contains(rest, "@") {
		return true
	}
	authority, _, _ := strings.Cut(rest, "/")
	authority, _, _ = strings.Cut(authority, "?")
	if strings.HasPrefix(authority, "[") { // an IPv6 address
		_, authority, _ = strings.Cut(authority, "]")
	}
	_, port, ok := strings.Cut(authority, ":")
	return ok && strings.Trim(port, "0123456789") != ""
}

// urlProblem returns why a URL was refused. The parsers quote the part that they
// do not understand, and a badly escaped password is such a part.
func urlProblem(raw string, err error) error {
	_, rest, _ := strings.Cut(raw, "://")
	if mayHoldPassword(rest) {
		return errors.New("not a URL; in user and password write /, ?, #, @, % and : as %2F, %3F, %23, %40, %25 and %3A")
	}
	var quoted *url.Error
	if errors.As(err, &quoted) {
		return quoted.Err
	}
	return err
}
