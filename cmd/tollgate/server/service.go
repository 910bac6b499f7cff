package server

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
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"tollgate/cmd/tollgate/certificates"
	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/listen"
	"tollgate/cmd/tollgate/memory"
	"tollgate/cmd/tollgate/settings"
	"tollgate/cmd/tollgate/storage"
	"tollgate/cmd/tollgate/telemetry"
	"tollgate/extauthz"
	"tollgate/extauthz/grpcserver"
	"tollgate/extauthz/httpserver"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/policy/usage/clickhouse"
)

const (
	// maxLocalKeys bounds the counters of plans with failure_mode local, of which
	// each takes about 300 bytes.
	maxLocalKeys = 100_000
	// The HTTP port answers short questions from inside the cluster.
	httpHeaderTimeout = 5 * time.Second
	httpTimeout       = 30 * time.Second
	// DefaultDrainDelay is two of the health checks that the shipped Envoy files make.
	DefaultDrainDelay = 2 * time.Second
	// endTimeout bounds the wait for background work at the end.
	endTimeout = 2 * time.Second
)

// service is what serve has started, in the order of its fields.
type service struct {
	version    string
	log        *slog.Logger
	metrics    *extauthz.Metrics
	registry   *prometheus.Registry
	policies   *extauthz.Policies
	certs      *certificates.Certificates // nil without TLS
	storage    *storage.Store
	records    *store.Store
	counters   *counters.Store
	hasher     *keys.Hasher
	older      bool // the hasher has older methods
	standing   *standing.Standing
	seeder     *seeder
	rights     *rights
	cache      *keyCache
	leases     *counters.Leases
	tokens     *accessTokens
	history    *clickhouse.Client // nil without --usage-clickhouse
	usage      *usageCounts       // nil with --usage=false
	errors     *errorLog          // nil with --error-log=false
	ways       waysOut            // of alerts
	alerts     *alerting          // nil with --usage=false
	decisions  *decisions
	traces     *telemetry.Traces // nil unless OTEL_ variables ask for it
	authorizer *extauthz.Authorizer
	grpc       *grpcserver.Server
	status     *Status
	http       *http.Server
	profiler   *profiler          // nil unless asked for
	authzHTTP  *httpserver.Server // nil without --authz-http-address

	grpcListener, httpListener, authzHTTPListener net.Listener

	drainBy time.Time // set when it begins to end
}

// serve runs the server until a signal or the end of ctx. What is wrong with the
// settings or their files is found before anything is opened.
func serve(ctx context.Context, s *options, version string, stdout, stderr io.Writer) error {
	stop, stopNow, release := untilSignal(ctx)
	defer release()

	v := &service{log: newLog(s, stderr), version: version}
	v.registry, v.metrics = newMetrics()
	set, err := v.loadPolicies(s)
	if err != nil {
		return err
	}
	if v.ways, err = newWaysOut(s); err != nil {
		return err
	}
	if err := v.loadCertificates(s); err != nil {
		return err
	}
	if v.history, err = s.openHistory(); err != nil {
		return err
	}
	if err := v.openTelemetry(stop, s, stdout); err != nil {
		return err
	}
	entries, from, err := v.prepareKeys(s, set)
	if err != nil {
		return err
	}
	if v.storage, err = storage.Open(&s.Shared, s.deadline, v.log); err != nil {
		return err
	}
	defer func() { v.logError("close the store", v.storage.Close()) }()
	v.warnAboutStore()
	registerProcess(v.registry, version, v.storage.Client)
	v.records, v.counters = store.New(v.storage.Client), counters.NewStore(v.storage.Client, nil)
	manager := admin.NewManager(v.records, v.hasher, set, audit.New(v.storage.Client, 0), serverActor(), time.Now)
	v.standing = standing.New(v.storage.Client, v.hasher, standing.Options{
		Timeout: s.cacheOptions().Timeout,
		Emptied: func() { v.cache.cache.StoreEmptied() }, // never at the first look, before there is a cache
	})
	v.seeder = &seeder{storage: v.storage, entries: entries, from: from, manager: manager, standing: v.standing, report: &standingLog{log: v.log, now: time.Now}, log: v.log}
	if err := v.seeder.start(stop); err != nil {
		return fmt.Errorf("--keys %s: %w", s.keys, err)
	}
	v.reachStore(stop, s.deadline)
	v.rights = &rights{keys: v.records, counts: v.counters, limitsSlots: func() bool { return v.policies.Current().LimitsConcurrency() }}
	if !v.seeder.away {
		v.rights.try(stop)
	}
	v.build(s)
	if err := v.listen(s); err != nil {
		return err
	}
	return v.run(s, stop, stopNow)
}

func (v *service) loadPolicies(s *options) (*policy.Set, error) {
	var err error
	if v.policies, err = extauthz.LoadPolicies(s.Policy, v.log, v.metrics, s.accept); err != nil {
		return nil, fmt.Errorf("--policy:\n%w", err)
	}
	return v.policies.Current(), nil
}

func (v *service) loadCertificates(s *options) error {
	if s.tlsCert == "" && s.tlsKey == "" && s.tlsClientCA == "" {
		return nil
	}
	var err error
	v.certs, err = certificates.Load(certificates.Files{
		Certificate: s.tlsCert, Key: s.tlsKey, ClientCA: s.tlsClientCA,
	}, v.log)
	return err
}

// openHistory returns what reaches ClickHouse, nil for none.
func (s *options) openHistory() (*clickhouse.Client, error) {
	if s.ClickHouse != "" && !s.usage && s.logDecisionsTo != DecisionsToClickHouse {
		return nil, fmt.Errorf("--%s: with --usage=false nothing is counted", settings.ClickHouseFlag)
	}
	return s.History()
}

// prepareKeys makes the hasher and reads the keys file.
func (v *service) prepareKeys(s *options, set *policy.Set) (entries []keyfile.Entry, from admin.SeedSource, err error) {
	pepper, err := s.Pepper()
	if err != nil {
		return nil, from, err
	}
	if len(pepper) == 0 && s.Store != settings.EmbeddedStore {
		v.log.Warn("no pepper: whoever can read the store can test guesses at keys; give --pepper-file")
	}
	older, err := s.OlderMethods()
	if err != nil {
		return nil, from, err
	}
	v.hasher, v.older = keys.NewHasher(pepper, older...), len(older) > 0
	if s.keys == "" {
		return nil, from, nil
	}
	return readKeys(s.keys, set, s.Store == settings.EmbeddedStore)
}

func (v *service) warnAboutStore() {
	if v.storage.Embedded {
		v.log.Warn("the store is EMBEDDED: keys and counters are in this process alone and are lost when it ends; give --store redis://… for more than a trial",
			slog.String("socket", v.storage.Address))
		return
	}
	v.log.Info("store", slog.String("store", v.storage.What))
}

// build makes the two servers.
func (v *service) build(s *options) {
	var config *tls.Config
	if v.certs != nil {
		config = v.certs.Config()
	}
	cached := s.cacheOptions()
	cached.Vouch = v.standing.Vouch
	cached.Reset = func(limitID string) { v.leases.Drop(limitID) } // which there are before any message
	v.cache = newKeyCache(v.records, audit.New(v.storage.Client, 0), cached, v.older, v.policies, v.registry, v.metrics, v.log)
	v.leases = counters.NewLeases(v.counters, counters.Options{
		Exact: s.limits == LimitsExact, Timeout: s.deadline, Jumped: clockJumped(v.log),
	})
	extauthz.RegisterLimits(v.registry, v.leases)
	v.tokens = v.newAccessTokens()
	v.usage, v.errors = v.newUsage(s), v.newErrorLog(s)
	v.alerts = v.newAlerting(v.ways, s.replicas)
	v.authorizer = extauthz.New(extauthz.Config{
		Policies:  v.policies,
		Decider:   policy.NewDecider(v.hasher, limits.NewLocal(s.replicas, time.Now, maxLocalKeys), time.Now),
		Keys:      v.cache.cache,
		Limits:    v.leases,
		Tokens:    v.tokens.verifier,
		Breaker:   v.cache.breaker,
		Usage:     v.cache.usage,
		Counts:    v.usage.counts(),
		Networks:  v.alerts.sightings(),
		Errors:    v.errors.sampled(),
		Rehash:    v.cache.rehash(),
		Metrics:   v.metrics,
		Log:       v.log,
		Decisions: extauthz.Decisions(s.logDecisions),
		Lines:     v.decisions.lines,
		Tracing:   v.traces.Decisions(),
		Deadline:  s.deadline,
	})
	v.grpc = grpcserver.New(v.authorizer, grpcserver.Config{TLS: config, Reflection: s.reflection})
	v.status = &Status{
		Policies: v.policies, Gatherer: v.registry, Store: v.storage.What, Standing: v.standing.State, Missing: v.rights.missing,
		Breaker: v.cache.breaker, Stream: v.cache.cache.Stream, Slots: v.slotTroubles, Logs: v.logReport,
		Far: func(ctx context.Context) string { return v.farStore(ctx, s.deadline, 1) },
	}
	RegisterStanding(v.registry, v.status)
	extauthz.RegisterSlots(v.registry, v.slotTroubles)
	v.grpc.SetReady(v.status.Unready() == "")
	v.http = &http.Server{
		Handler:           v.status.Handler(),
		ReadHeaderTimeout: httpHeaderTimeout,
		ReadTimeout:       httpTimeout,
		WriteTimeout:      httpTimeout,
		IdleTimeout:       2 * httpTimeout,
		ErrorLog:          slog.NewLogLogger(v.log.Handler(), slog.LevelWarn),
	}
}

// listen takes all ports.
func (v *service) listen(s *options) error {
	if s.addressesFile != "" {
		// A script that waits for the file must not find that of an earlier run.
		if err := os.Remove(s.addressesFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("--addresses-file: %w", err)
		}
	}
	var err error
	if v.grpcListener, err = listen.On(s.grpcAddress); err != nil {
		return exit.Failed(fmt.Errorf("--grpc-address: %w", err))
	}
	if v.httpListener, err = net.Listen("tcp", s.httpAddress); err != nil {
		return exit.Failed(errors.Join(fmt.Errorf("--http-address: %w", err), v.grpcListener.Close()))
	}
	if v.profiler, err = startProfiler(s.pprofAddress); err != nil {
		return exit.Failed(errors.Join(fmt.Errorf("--pprof-address: %w", err), v.grpcListener.Close(), v.httpListener.Close()))
	}
	if err := v.listenAuthzHTTP(s); err != nil {
		v.profiler.stop()
		return errors.Join(err, v.grpcListener.Close(), v.httpListener.Close())
	}
	return nil
}

// run serves until stop ends, then drains until that is done, its time is up or
// stopNow ends.
func (v *service) run(s *options, stop, stopNow context.Context) error {
	follow, endFollow := context.WithCancel(stopNow)
	// Calls that drain still need keys that are up to date.
	serving, endServing := context.WithCancel(context.WithoutCancel(stopNow))
	var work sync.WaitGroup
	defer v.waitFor(&work)
	defer v.profiler.stop()
	defer endServing()
	defer endFollow()

	work.Go(func() { memory.Tune(serving, s.cacheKeys) })
	work.Go(func() { v.cache.run(serving) })
	work.Go(func() { v.tokens.run(serving) })
	work.Go(func() { v.leases.Run(serving) }) // gives back what is leased after the last call
	work.Go(func() {
		v.usage.run(serving, func() (context.Context, context.CancelFunc) { return v.lastMoments(stopNow) })
	})
	work.Go(func() { v.errors.run(serving) })
	work.Go(func() { v.alerts.run(follow) })
	work.Go(func() { v.decisions.run(serving, v.log) })
	work.Go(func() { v.logError("send the last spans", v.traces.Run(serving)) })
	ended := make(chan error, 3)
	work.Go(func() { ended <- v.grpc.Serve(v.grpcListener) })
	work.Go(func() { ended <- ignoreClosed(v.http.Serve(v.httpListener)) })
	work.Go(func() { v.serveAuthzHTTP(ended) })
	work.Go(func() { v.followPolicies(follow, s.reloadInterval) })
	if v.certs != nil {
		work.Go(func() { v.followCertificates(follow, s.reloadInterval) })
	}
	work.Go(func() {
		v.seeder.follow(follow, func() {
			v.rights.try(follow)
			v.grpc.SetReady(v.status.Unready() == "")
		})
	})
	err := v.announce(s)
	delay := time.Duration(0)
	if err == nil {
		select {
		case <-stop.Done():
			delay = s.delayAfter(context.Cause(stop))
			v.log.Info("draining", slog.Duration("delay", delay), slog.Duration("at_most", s.drainTimeout))
		case err = <-ended: // a port that no longer accepts
		}
	}
	endFollow()
	drained := v.shutDown(s, delay, stopNow)
	if err == nil {
		err = drained
	}
	return exit.Failed(err)
}

// lastMoments is what is left of the time to drain, for what the last calls have left behind.
func (v *service) lastMoments(stopNow context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(stopNow, max(time.Until(v.drainBy), endTimeout/2))
}

// waitFor waits for the work to end, but not for long: a file system that does
// not answer must not keep a server that is told to stop.
func (v *service) waitFor(work *sync.WaitGroup) {
	limit := endTimeout
	if v.history != nil {
		limit += max(time.Until(v.drainBy), 0)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		work.Wait()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		v.log.Warn("some work has not ended; going without it")
	}
}

// delayAfter returns how long to go on serving for the cause of the end: who presses
// Ctrl-C has no proxies that need to notice.
func (s *options) delayAfter(cause error) time.Duration {
	if s.drainDelayed || errors.Is(cause, errTerminated) {
		return s.drainDelay
	}
	return 0
}

// shutDown fails health checks, goes on serving for the delay, in which proxies
// notice, then refuses new calls and lets the others end.
func (v *service) shutDown(s *options, delay time.Duration, stopNow context.Context) error {
	v.status.Drain()
	v.grpc.Drain()
	select {
	case <-time.After(delay):
	case <-stopNow.Done():
	}
	v.drainBy = time.Now().Add(s.drainTimeout)
	ctx, cancel := context.WithDeadline(stopNow, v.drainBy)
	defer cancel()
	var overHTTP sync.WaitGroup
	overHTTP.Go(func() { v.shutDownAuthzHTTP(ctx) })
	v.grpc.Shutdown(ctx)
	overHTTP.Wait()
	cut := ctx.Err()
	err := v.http.Shutdown(ctx)
	if err != nil {
		err = v.http.Close()
	}
	if cut != nil {
		v.log.Warn("calls under way were cut off", slog.Any("error", cut))
	}
	v.log.Info("stopped")
	return err
}

// announce logs the addresses and writes them to the file.
func (v *service) announce(s *options) error {
	chosen := struct {
		GRPC      string `json:"grpc"`
		HTTP      string `json:"http"`
		AuthzHTTP string `json:"authz_http,omitempty"`
		Store     string `json:"store"`
		Pprof     string `json:"pprof,omitempty"`
	}{listen.Address(v.grpcListener), listen.Address(v.httpListener), v.authzHTTPAddress(), v.storage.Address, v.profiler.address()}
	v.log.Info("ready", slog.String("version", v.version), slog.String("grpc", chosen.GRPC), slog.String("http", chosen.HTTP), slog.String("authz_http", chosen.AuthzHTTP))
	if s.addressesFile == "" {
		return nil
	}
	data, err := json.Marshal(chosen)
	if err != nil {
		return err
	}
	if err := writeFile(s.addressesFile, append(data, '\n')); err != nil {
		return fmt.Errorf("--addresses-file: %w", err)
	}
	return nil
}

// writeFile writes a file so that nobody ever reads half of it.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// followPolicies looks at the policy files until ctx ends.
func (v *service) followPolicies(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	v.policies.Follow(ctx, tick.C)
}

// followCertificates looks at the certificate files until ctx ends.
func (v *service) followCertificates(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	v.certs.Follow(ctx, tick.C)
}

func (v *service) logError(doing string, err error) {
	if err != nil {
		v.log.Error(doing, slog.Any("error", err))
	}
}

func newMetrics() (*prometheus.Registry, *extauthz.Metrics) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry, extauthz.NewMetrics(registry)
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
