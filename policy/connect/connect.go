// Package connect connects to the Redis that holds keys and counters, however it is deployed: one
// server, behind Sentinel, or a cluster; over TCP, TLS or a unix socket; named by a URL or by the
// variables of Envoy's rate-limit service. An ACL says what a package needs of it.
package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options say where Redis is and what to do for it.
type Options struct {
	// URL is one of
	//
	//	redis://[USER:PASSWORD@]HOST[:PORT][/DB]                    one server
	//	unix://[USER:PASSWORD@]/PATH[?db=DB]                        one server, by its socket
	//	redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DB]  sentinels; USER is of Redis
	//	redis+cluster://[USER:PASSWORD@]HOST[:PORT],…               some nodes of a cluster
	//
	// with rediss in place of redis for TLS. :PASSWORD@ is the default user. The ports default to
	// 6379, a sentinel's to 26379. In user, password and path write /, ?, #, @, % and : as %2F,
	// %3F, %23, %40, %25 and %3A. What may follow after ?, at most once each, joined by &:
	//
	//	tls_ca=FILE                             PEM certificates of the CA; default the system's
	//	tls_cert=FILE, tls_key=FILE             PEM certificate and key of the client
	//	tls_server_name=NAME                    the name in the certificate; default the host
	//	tls_skip_hostname_verification=true     any name, but still only that CA
	//	sentinel_username=, sentinel_password=  of the sentinels
	//	dial_timeout=, read_timeout=, write_timeout=, pool_timeout=, conn_max_idle_time=,
	//	conn_max_lifetime=                      durations: 50ms, or whole seconds
	//	pool_size=, min_idle_conns=             connections to a server; at most 64, or ten a CPU
	//	client_name=                            as CLIENT LIST shows it; needs +client|setname
	URL string
	// Env gives the variables of Envoy's rate-limit service if URL is empty; nil for none.
	Env func(string) string
	// Deadline is the time of one decision: the time-outs that the URL does not set stay below it.
	// 0 means five seconds.
	Deadline time.Duration
	// Log gets the warnings about certificates that cannot be read again. Nil discards them.
	Log *slog.Logger
}

// ErrNoURL says that neither the URL nor REDIS_URL names a Redis.
var ErrNoURL = errors.New("no URL")

const (
	defaultDeadline = 5 * time.Second
	// dialTimeout may be longer than a decision's deadline: go-redis dials in the background, the
	// decision stops waiting at its own deadline, and a TLS handshake over a slow network still
	// completes for the next one.
	dialTimeout = time.Second
	// poolSize is how many connections there may be where the URL does not say: 500 first look-ups
	// of keys a second, of two reads each, keep 45 busy where a round trip takes 45 ms. go-redis'
	// own is ten for each CPU.
	poolSize = 64
	// onePool has pipelines use the connections that are there. go-redis would make ten for them
	// alone, which are neither counted by pool_size nor greeted before they are needed.
	onePool = -1
	// clusterReload bounds how long a replica that was promoted in silence stays unknown.
	clusterReload = 10 * time.Second
)

// Open makes a client and a description of it for people, without passwords. It reads the
// certificates, and connects to nothing yet. Nothing is ever sent twice: a command whose reply was
// lost may have been carried out. A cluster's redirects are followed all the same. Reads go to
// masters only. Errors: ErrNoURL; any other names the part of the URL or the variable that is
// wrong, and shows no password.
func Open(o Options) (client redis.UniversalClient, description string, err error) {
	t, err := o.target()
	if err != nil {
		return nil, "", err
	}
	s := newSettings(t, o.Deadline)
	if t.tls.on {
		certificates, err := loadCertificates(t.tls, o.Log)
		if err != nil {
			return nil, "", err
		}
		s.dial = certificates.dialer(s.dialTimeout, s.home())
	} else if t.kind == cluster {
		s.dial = plainDialer(s.dialTimeout, s.home())
	}
	switch t.kind {
	case sentinel:
		client = redis.NewFailoverClient(s.failover())
	case cluster:
		client = newCluster(s.cluster())
	default:
		client = redis.NewClient(s.single())
	}
	client.AddHook(wholeHook{})
	return client, t.String(), nil
}

// InProcess makes a client for a server in this process, which dial reaches, with the same habits
// as those of Open.
func InProcess(dial func(context.Context, string, string) (net.Conn, error), deadline time.Duration) *redis.Client {
	s := newSettings(&target{network: "tcp", addresses: []string{"memory"}}, deadline)
	s.dial = dial
	o := s.single()
	o.PipelinePoolSize = 0 // a connection without a buffer of its own needs those of go-redis' pipelines
	c := redis.NewClient(o)
	c.AddHook(wholeHook{})
	return c
}

// target parses what the options name.
func (o Options) target() (*target, error) {
	if o.URL != "" {
		return parseURL(o.URL)
	}
	if o.Env != nil && o.Env(envURL) != "" {
		return fromEnv(o.Env)
	}
	return nil, ErrNoURL
}

// String describes a target without its passwords.
func (t *target) String() string {
	scheme := "redis"
	if t.tls.on {
		scheme = "rediss"
	}
	hidden := ""
	if t.password != "" {
		hidden = "xxxxx@"
	}
	addresses := strings.Join(t.addresses, ",")
	switch t.kind {
	case sentinel:
		return fmt.Sprintf("%s+sentinel://%s%s/%s/%d", scheme, hidden, addresses, t.master, t.db)
	case cluster:
		return scheme + "+cluster://" + hidden + addresses
	}
	if t.network == "unix" {
		return fmt.Sprintf("unix://%s%s?db=%d", hidden, addresses, t.db)
	}
	return fmt.Sprintf("%s://%s%s/%d", scheme, hidden, addresses, t.db)
}

// settings are what all kinds of clients share.
type settings struct {
	*target
	dial dialFunc // nil for go-redis' own
	// A stand-alone client or a cluster's node; a Sentinel's differs in its type alone.
	maintenance *maintnotifications.Config
}

func newSettings(t *target, deadline time.Duration) *settings {
	if deadline <= 0 {
		deadline = defaultDeadline
	}
	below := deadline * 9 / 10
	for _, timeout := range []*time.Duration{&t.readTimeout, &t.writeTimeout, &t.poolTimeout} {
		if *timeout == 0 {
			*timeout = below
		}
	}
	if t.poolSize == 0 {
		t.poolSize = max(poolSize, 10*runtime.GOMAXPROCS(0))
	}
	if t.dialTimeout == 0 {
		t.dialTimeout = dialTimeout
	}
	// What go-redis asks a server at each new connection beyond its greeting is left out: servers
	// and ACLs that do not know it slow the first request down or refuse it.
	return &settings{target: t, maintenance: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}}
}

// home is the host of the first address.
func (s *settings) home() string {
	host, _, _ := net.SplitHostPort(s.addresses[0])
	return host
}

func (s *settings) single() *redis.Options {
	return &redis.Options{
		Network: s.network, Addr: s.addresses[0], Dialer: s.dial, ClientName: s.clientName,
		Username: s.user, Password: s.password, DB: s.db,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: s.dialTimeout, ReadTimeout: s.readTimeout, WriteTimeout: s.writeTimeout, PoolTimeout: s.poolTimeout,
		PoolSize: s.poolSize, PipelinePoolSize: onePool, MinIdleConns: s.minIdle, ConnMaxIdleTime: s.maxIdleTime, ConnMaxLifetime: s.maxLifetime,
		DisableIdentity: true, MaintNotificationsConfig: s.maintenance,
	}
}

func (s *settings) failover() *redis.FailoverOptions {
	return &redis.FailoverOptions{
		MasterName: s.master, SentinelAddrs: s.addresses, Dialer: s.dial, ClientName: s.clientName,
		SentinelUsername: s.sentinelUser, SentinelPassword: s.sentinelPassword,
		Username: s.user, Password: s.password, DB: s.db,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: s.dialTimeout, ReadTimeout: s.readTimeout, WriteTimeout: s.writeTimeout, PoolTimeout: s.poolTimeout,
		PoolSize: s.poolSize, PipelinePoolSize: onePool, MinIdleConns: s.minIdle, ConnMaxIdleTime: s.maxIdleTime, ConnMaxLifetime: s.maxLifetime,
		DisableIdentity: true,
	}
}

func (s *settings) cluster() *redis.ClusterOptions {
	return &redis.ClusterOptions{
		Addrs: s.addresses, Dialer: s.dial, ClientName: s.clientName,
		Username: s.user, Password: s.password,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: s.dialTimeout, ReadTimeout: s.readTimeout, WriteTimeout: s.writeTimeout, PoolTimeout: s.poolTimeout,
		PoolSize: s.poolSize, PipelinePoolSize: onePool, MinIdleConns: s.minIdle, ConnMaxIdleTime: s.maxIdleTime, ConnMaxLifetime: s.maxLifetime,
		DisableIdentity: true, MaintNotificationsConfig: s.maintenance,
		ClusterStateReloadInterval: clusterReload,
		// Every command here has its keys in one slot. The policies would ask for COMMAND first,
		// and spread commands over nodes by their Go type, which hooks.go changes.
		DisableRoutingPolicies: true,
	}
}
