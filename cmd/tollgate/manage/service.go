package manage

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"tollgate/cmd/tollgate/certificates"
	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/settings"
	"tollgate/cmd/tollgate/storage"
	"tollgate/extauthz"
	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/manage/api"
	"tollgate/policy/manage/once"
)

// What one client, or many, can take.
const (
	headerTime     = 5 * time.Second
	requestTime    = 15 * time.Second
	answerTime     = 30 * time.Second
	idleTime       = time.Minute
	maxHeader      = 16 << 10 // bytes
	maxConnections = 1000
	drainTime      = 15 * time.Second // a change takes 10 s at most
)

// run serves until a signal or the end of ctx. What is wrong with the settings or their files is
// found before anything is opened.
func run(ctx context.Context, s *options, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := newLog(s, stderr)
	// The figures are those of decisions, of which there are none here.
	policies, err := extauthz.LoadPolicies(s.Policy, log, extauthz.NewMetrics(prometheus.NewRegistry()), nil)
	if err != nil {
		return fmt.Errorf("--policy:\n%w", err)
	}
	var certs *certificates.Certificates
	if s.tlsCert != "" {
		if certs, err = certificates.Load(certificates.Files{Certificate: s.tlsCert, Key: s.tlsKey}, log); err != nil {
			return err
		}
	}
	hasher, err := newHasher(s, log)
	if err != nil {
		return err
	}
	opened, err := storage.Connect(&s.Shared, stderr)
	if err != nil {
		return err
	}
	defer func() {
		if err := opened.Close(); err != nil {
			log.Error("close the store", slog.Any("error", err))
		}
	}()
	handler, err := newAPI(ctx, s, opened, hasher, policies, log)
	if err != nil {
		return err
	}
	return exit.Failed(serve(ctx, s, handler, policies, certs, log))
}

func newLog(s *options, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.logLevel)) // it was checked
	o := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func newHasher(s *options, log *slog.Logger) (*keys.Hasher, error) {
	pepper, err := s.Pepper()
	if err != nil {
		return nil, err
	}
	older, err := s.OlderMethods()
	if err != nil {
		return nil, err
	}
	if len(pepper) == 0 && s.Store != settings.EmbeddedStore {
		log.Warn("no pepper: whoever can read the store can test guesses at keys; give --pepper-file")
	}
	return keys.NewHasher(pepper, older...), nil
}

// newAPI puts the API on the store. A pepper that is not that of the store is a mistake now; a
// store that does not answer yet is not.
func newAPI(ctx context.Context, s *options, opened *storage.Store, hasher *keys.Hasher, policies *extauthz.Policies, log *slog.Logger) (*api.API, error) {
	check := func(ctx context.Context) error { return standing.CheckPepper(ctx, opened.Client, hasher) }
	if err := check(ctx); errors.Is(err, standing.ErrPepper) {
		return nil, exit.Failed(exit.Plain(err))
	} else if err != nil {
		log.Warn("the store cannot be used yet", slog.Any("error", exit.Plain(err)))
	}
	proxies, err := s.proxies()
	if err != nil {
		return nil, err
	}
	return api.New(api.Config{
		Store: store.New(opened.Client), Audit: audit.New(opened.Client, 0), Hasher: hasher, Once: once.New(opened.Client),
		Rules:       func() keys.Rules { return policies.Current() },
		CheckPepper: check, Ready: check, Trusted: proxies, Secure: s.tlsCert != "", Log: log, Now: time.Now,
	}), nil
}

// serve answers until ctx ends, and then lets what is under way end.
func serve(ctx context.Context, s *options, handler http.Handler, policies *extauthz.Policies, certs *certificates.Certificates, log *slog.Logger) error {
	listener, err := s.listen()
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, WriteTimeout: answerTime,
		IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	var work sync.WaitGroup
	defer work.Wait()
	follow, end := context.WithCancel(ctx)
	defer end()
	work.Go(func() { every(s.reloadInterval, func(ticks <-chan time.Time) { policies.Follow(follow, ticks) }) })
	if certs != nil {
		work.Go(func() { every(s.reloadInterval, func(ticks <-chan time.Time) { certs.Follow(follow, ticks) }) })
		listener = tls.NewListener(listener, http1(certs.Config()))
	}
	ended := make(chan error, 1)
	work.Go(func() { ended <- server.Serve(listener) })
	address := listener.Addr().String()
	log.Info("the management API is served", slog.String("address", address), slog.Bool("tls", certs != nil))
	if err := s.announce(address); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return errors.Join(err, server.Close())
	}
	log.Info("stopped")
	return nil
}

// http1 is a configuration without HTTP/2: a connection is then one request at a time, and the
// bounds on connections and times hold for requests.
func http1(c *tls.Config) *tls.Config {
	return &tls.Config{MinVersion: c.MinVersion, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		now, err := c.GetConfigForClient(hello)
		if now == nil || err != nil {
			return now, err
		}
		now = now.Clone()
		now.NextProtos = []string{"http/1.1"}
		return now, nil
	}}
}

// every hands out ticks until follow returns.
func every(interval time.Duration, follow func(ticks <-chan time.Time)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	follow(tick.C)
}

// announce writes the address to the file, which appears at once and whole.
func (s *options) announce(address string) error {
	if s.addressesFile == "" {
		return nil
	}
	data, err := json.Marshal(map[string]string{"manage": address})
	if err != nil {
		return err
	}
	part := s.addressesFile + ".part"
	if err := os.WriteFile(part, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("--addresses-file: %w", err)
	}
	return os.Rename(part, s.addressesFile)
}

// listen opens the port. In plain text, off the loopback, only the trusted proxies are served.
func (s *options) listen() (net.Listener, error) {
	if s.addressesFile != "" {
		// A script that waits for the file must not find that of an earlier run.
		if err := os.Remove(s.addressesFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("--addresses-file: %w", err)
		}
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return nil, fmt.Errorf("--manage-address: %w", err)
	}
	listener = netutil.LimitListener(listener, maxConnections)
	host, _, _ := net.SplitHostPort(s.address)
	if s.tlsCert != "" || loopback(host) {
		return listener, nil
	}
	proxies, err := s.proxies()
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return &guarded{listener, proxies}, nil
}

// guarded closes the connections of others than the trusted proxies, unread.
type guarded struct {
	net.Listener
	trusted []netip.Prefix
}

// Accept returns the next connection of a trusted proxy.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			peer := tcp.AddrPort().Addr().Unmap().WithZone("")
			for _, p := range g.trusted {
				if p.Contains(peer) {
					return c, nil
				}
			}
		}
		_ = c.Close()
	}
}
