package connect

import (
	"errors"
	"fmt"
	"strings"
)

// envURL is the variable that the others depend on.
const envURL = "REDIS_URL"

// envNames are the variables of Envoy's rate-limit service (envoyproxy/ratelimit,
// src/settings/settings.go) that say where Redis is, apart from REDIS_URL, REDIS_TYPE and
// REDIS_SOCKET_TYPE, which fromEnv reads itself.
//
// REDIS_URL is HOST[:PORT] or the path of a socket; with REDIS_TYPE=CLUSTER a list of nodes; with
// REDIS_TYPE=SENTINEL the name of the master and the sentinels, as there. A URL with a scheme is
// taken too, and then REDIS_TYPE and REDIS_SOCKET_TYPE are not. REDIS_SOCKET_TYPE says unix, tcp or
// tls; without it, a path is a socket and the rest tcp. REDIS_AUTH and REDIS_SENTINEL_AUTH are
// PASSWORD or USER:PASSWORD. REDIS_TIMEOUT is that of connecting, reading and writing; a decision
// keeps its own deadline.
func (t *target) envNames() []envName {
	return []envName{
		{"REDIS_AUTH", credentials(&t.user, &t.password)},
		{"REDIS_SENTINEL_AUTH", credentials(&t.sentinelUser, &t.sentinelPassword)},
		{"REDIS_TLS", either(&t.tls.on)},
		{"REDIS_TLS_CACERT", text(&t.tls.ca)},
		{"REDIS_TLS_CLIENT_CERT", text(&t.tls.cert)},
		{"REDIS_TLS_CLIENT_KEY", text(&t.tls.key)},
		{"REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", truth(&t.tls.anyName)},
		{"REDIS_POOL_SIZE", count(&t.poolSize)},
		{"REDIS_TIMEOUT", func(s string) error {
			err := duration(&t.dialTimeout)(s)
			t.readTimeout, t.writeTimeout = t.dialTimeout, t.dialTimeout
			return err
		}},
	}
}

type envName struct {
	name string
	set  func(string) error
}

func fromEnv(env func(string) string) (*target, error) {
	t, err := envTarget(env)
	if err != nil {
		return nil, err
	}
	for _, n := range t.envNames() {
		if value := env(n.name); value != "" {
			if err := n.set(value); err != nil {
				return nil, fmt.Errorf("%s: %w", n.name, err)
			}
		}
	}
	if !t.tls.on {
		t.tls = tlsFiles{} // there, these have no effect without REDIS_TLS either
	}
	if t.kind != sentinel {
		t.sentinelUser, t.sentinelPassword = "", ""
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("%s and the other REDIS_ variables: %w", envURL, err)
	}
	return t, nil
}

// envTarget reads REDIS_URL in the sense that REDIS_TYPE and REDIS_SOCKET_TYPE give it.
func envTarget(env func(string) string) (*target, error) {
	raw, kind, socket := env(envURL), env("REDIS_TYPE"), env("REDIS_SOCKET_TYPE")
	if strings.Contains(raw, "://") {
		t, err := parseURL(raw)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s %q: %w", envURL, Redact(raw), err)
		case kind != "" || socket != "":
			return nil, fmt.Errorf("%s has a scheme, which says what REDIS_TYPE and REDIS_SOCKET_TYPE would: unset these", envURL)
		}
		return t, nil
	}
	t := &target{network: "tcp"}
	hosts := raw
	switch strings.ToUpper(kind) {
	case "", "SINGLE":
	case "CLUSTER":
		t.kind = cluster
	case "SENTINEL":
		t.kind = sentinel
		t.master, hosts, _ = strings.Cut(raw, ",")
		if t.master == "" || hosts == "" {
			return nil, fmt.Errorf("%s: with REDIS_TYPE=SENTINEL it is the name of the master and then the sentinels, MASTER,HOST:PORT,…", envURL)
		}
	default:
		return nil, errors.New("REDIS_TYPE: want SINGLE, SENTINEL or CLUSTER")
	}
	if socket == "unix" || socket == "" && strings.HasPrefix(raw, "/") {
		if t.kind != single || !strings.HasPrefix(raw, "/") {
			return nil, fmt.Errorf("%s: a unix socket is one server and one absolute path", envURL)
		}
		t.network, t.addresses = "unix", []string{raw}
		return t, nil
	}
	switch socket {
	case "", "tcp":
	case "tls":
		t.tls.on = true
	default:
		return nil, errors.New("REDIS_SOCKET_TYPE: want tcp, tls or unix")
	}
	if err := t.setHosts(hosts); err != nil {
		return nil, fmt.Errorf("%s: %w", envURL, err)
	}
	return t, nil
}

// credentials takes PASSWORD or USER:PASSWORD.
func credentials(user, password *string) func(string) error {
	return func(s string) error {
		if *password != "" {
			return errors.New("the URL has a password already")
		}
		name, secret, ok := strings.Cut(s, ":")
		if !ok {
			name, secret = "", s
		}
		if secret == "" {
			return errors.New("there is no password after the user")
		}
		*user, *password = name, secret
		return nil
	}
}

// either sets what something else may have set already.
func either(to *bool) func(string) error {
	return func(s string) error {
		var on bool
		err := truth(&on)(s)
		*to = *to || on
		return err
	}
}
