package connect

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type kind uint8

const (
	single kind = iota
	sentinel
	cluster
)

// target is where Redis is, in whichever form that was given.
type target struct {
	kind      kind
	network   string   // tcp or unix
	addresses []string // HOST:PORT, or the path of a socket
	master    string   // with Sentinel
	db        int
	tls       tlsFiles

	user, password                 string
	sentinelUser, sentinelPassword string

	clientName                                          string
	poolSize, minIdle                                   int
	dialTimeout, readTimeout, writeTimeout, poolTimeout time.Duration
	maxIdleTime, maxLifetime                            time.Duration
}

const (
	redisPort    = "6379"
	sentinelPort = "26379"
	maxPoolSize  = 100_000
	schemes      = "redis://, rediss://, unix://, redis[s]+sentinel:// or redis[s]+cluster://"
)

// errEscape is also the answer to everything that may be a piece of a password: it quotes nothing.
var errEscape = errors.New("not a URL; in user and password write /, ?, #, @, % and : as %2F, %3F, %23, %40, %25 and %3A")

// parseURL does not use url.Parse, which knows one host only, and which quotes passwords in its
// errors.
func parseURL(raw string) (*target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	t := &target{network: "tcp"}
	if !ok || !t.setScheme(scheme) {
		return nil, fmt.Errorf("its scheme is none of %s", schemes)
	}
	rest, query, _ := strings.Cut(rest, "?")
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	authority, path := rest[:end], rest[end:]
	if strings.ContainsAny(path+query, "@#") || strings.Contains(authority, "#") {
		return nil, errEscape
	}
	hosts := authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		hosts = authority[i+1:]
		if err := t.setUser(authority[:i]); err != nil {
			return nil, err
		}
	}
	if t.network == "unix" {
		if hosts != "" {
			return nil, errors.New("unix:// has no host: write unix:///PATH")
		}
	} else if err := t.setHosts(hosts); err != nil {
		return nil, err
	}
	if err := t.setPath(path); err != nil {
		return nil, err
	}
	if err := t.setParameters(query); err != nil {
		return nil, err
	}
	return t, t.check()
}

func (t *target) setScheme(scheme string) bool {
	protocol, kind, _ := strings.Cut(scheme, "+")
	switch kind {
	case "sentinel":
		t.kind = sentinel
	case "cluster":
		t.kind = cluster
	}
	switch scheme {
	case "unix":
		t.network = "unix"
		return true
	case "redis", "redis+sentinel", "redis+cluster", "rediss", "rediss+sentinel", "rediss+cluster":
		t.tls.on = protocol == "rediss"
		return true
	}
	return false
}

func (t *target) setUser(info string) error {
	user, password, ok := strings.Cut(info, ":")
	var errs [2]error
	t.user, errs[0] = url.PathUnescape(user)
	t.password, errs[1] = url.PathUnescape(password)
	if errs[0] != nil || errs[1] != nil || strings.ContainsAny(info, "@") {
		return errEscape
	}
	if !ok || password == "" {
		return errors.New("there is no password after its user; a password alone is written :PASSWORD@")
	}
	return nil
}

func (t *target) setHosts(list string) error {
	port := redisPort
	if t.kind == sentinel {
		port = sentinelPort
	}
	for part := range strings.SplitSeq(list, ",") {
		address, err := hostPort(part, port)
		if err != nil {
			return err
		}
		t.addresses = append(t.addresses, address)
	}
	if t.kind == single && len(t.addresses) > 1 {
		return errors.New("it names several hosts: say redis+sentinel:// or redis+cluster://")
	}
	return nil
}

// hostPort completes HOST[:PORT]. A mistake in it may be a password without its @, so the errors
// quote nothing.
func hostPort(s, port string) (string, error) {
	host, digits := s, ""
	if end := strings.LastIndexByte(s, ']'); strings.HasPrefix(s, "[") && end > 0 {
		host, digits = s[1:end], s[end+1:]
		if net.ParseIP(host) == nil {
			return "", errors.New("what is in brackets is not an IPv6 address")
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, digits = s[:i], s[i:]
	}
	if digits != "" {
		port = digits[1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || digits[0] != ':' {
			return "", errors.New("a port is not a number from 1 to 65535; a password ends with @")
		}
	}
	if host == "" {
		return "", errors.New("a host is missing")
	}
	if strings.ContainsAny(host, " []%\\\"'<>") {
		return "", errors.New("a host holds a character that no host name has")
	}
	return net.JoinHostPort(host, port), nil
}

func (t *target) setPath(path string) error {
	path, err := url.PathUnescape(path)
	if err != nil {
		return errEscape
	}
	if t.network == "unix" {
		t.addresses = []string{path}
		if len(path) < 2 {
			return errors.New("unix:// has no path: write unix:///PATH")
		}
		return nil
	}
	db := strings.TrimPrefix(path, "/")
	if t.kind == sentinel {
		t.master, db, _ = strings.Cut(db, "/")
		if t.master == "" {
			return errors.New("the name of the master is missing: write redis+sentinel://HOST,…/MASTER")
		}
	}
	return t.setDB(db)
}

func (t *target) setDB(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return errors.New("invalid database number: it is the number after the last /")
	}
	t.db = int(n)
	return nil
}

// check finds what no part by itself can.
func (t *target) check() error {
	switch {
	case t.network == "unix" && t.tls.on:
		return errors.New("there is no TLS over a unix socket")
	case t.kind == cluster && t.db != 0:
		return errors.New("a cluster has no database but 0")
	case t.kind != sentinel && t.sentinelUser+t.sentinelPassword != "":
		return errors.New("sentinel_username and sentinel_password are for redis+sentinel://")
	case t.sentinelUser != "" && t.sentinelPassword == "":
		return errors.New("there is a sentinel_username without a sentinel_password")
	}
	return t.tls.check()
}

// setParameters takes what is after the "?".
func (t *target) setParameters(query string) error {
	if query == "" {
		return nil
	}
	known := t.parameters()
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		set, ok := known[name]
		if !ok {
			return unknownParameter(name)
		}
		if seen[name] {
			return fmt.Errorf("parameter %s is there twice", name)
		}
		seen[name] = true
		value, err := url.PathUnescape(value) // a + is a +: passwords and paths hold them
		if err != nil {
			return fmt.Errorf("parameter %s: a %% is written %%25", name)
		}
		if err := set(value); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return nil
}

// unknownParameter quotes a name only if it looks like one: it may be the rest of a password with a
// ? in it.
func unknownParameter(name string) error {
	if len(name) > 40 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return errors.New("unknown parameter after ?")
	}
	return fmt.Errorf("unknown parameter %q", name)
}

func (t *target) parameters() map[string]func(string) error {
	known := map[string]func(string) error{
		"tls_ca":                         text(&t.tls.ca),
		"tls_cert":                       text(&t.tls.cert),
		"tls_key":                        text(&t.tls.key),
		"tls_server_name":                text(&t.tls.serverName),
		"tls_skip_hostname_verification": truth(&t.tls.anyName),
		"sentinel_username":              text(&t.sentinelUser),
		"sentinel_password":              text(&t.sentinelPassword),
		"dial_timeout":                   duration(&t.dialTimeout),
		"read_timeout":                   duration(&t.readTimeout),
		"write_timeout":                  duration(&t.writeTimeout),
		"pool_timeout":                   duration(&t.poolTimeout),
		"conn_max_idle_time":             duration(&t.maxIdleTime),
		"conn_max_lifetime":              duration(&t.maxLifetime),
		"pool_size":                      count(&t.poolSize),
		"min_idle_conns":                 count(&t.minIdle),
		"client_name":                    text(&t.clientName),
	}
	if t.network == "unix" {
		known["db"] = t.setDB
	}
	return known
}

func text(to *string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("its value is empty")
		}
		*to = s
		return nil
	}
}

func truth(to *bool) func(string) error {
	return func(s string) (err error) {
		if *to, err = strconv.ParseBool(s); err != nil {
			return errors.New("want true or false")
		}
		return nil
	}
}

func count(to *int) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n < 1 || n > maxPoolSize {
			return fmt.Errorf("want a number from 1 to %d", maxPoolSize)
		}
		*to = int(n)
		return nil
	}
}

// duration takes what Go writes, and whole seconds as go-redis' own URLs do.
func duration(to *time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if n, whole := strconv.ParseUint(s, 10, 31); whole == nil {
			d, err = time.Duration(n)*time.Second, nil
		}
		if err != nil || d <= 0 {
			return errors.New("want a duration of more than 0, such as 50ms or 2 (seconds)")
		}
		*to = d
		return nil
	}
}

// Redact returns a URL without user, password and parameters, also where it is no URL: everything
// from "://" to the last "@" goes, and without an "@" everything, if a password could be in it.
func Redact(raw string) string {
	const hidden = "xxxxx"
	scheme, rest, ok := strings.Cut(raw, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", raw
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = hidden + rest[i:]
	} else if mayHoldPassword(rest) {
		rest = hidden
	}
	if i := strings.IndexByte(rest, '?'); i >= 0 {
		rest = rest[:i] + "?…"
	}
	return scheme + rest
}

// mayHoldPassword reports whether what follows "://" is more than HOST[:PORT],… and a path.
func mayHoldPassword(rest string) bool {
	if strings.Contains(rest, "#") {
		return true
	}
	authority, _, _ := strings.Cut(rest, "/")
	authority, _, _ = strings.Cut(authority, "?")
	for part := range strings.SplitSeq(authority, ",") {
		if strings.HasPrefix(part, "[") { // an IPv6 address
			_, part, _ = strings.Cut(part, "]")
		}
		if _, port, ok := strings.Cut(part, ":"); ok && strings.Trim(port, "0123456789") != "" {
			return true
		}
	}
	return false
}
