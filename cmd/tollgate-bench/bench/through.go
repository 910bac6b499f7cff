package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"tollgate/cmd/tollgate-bench/bench/load"
	"tollgate/envoy/envoytest"
)

// setup is an Envoy with what answers its checks.
type setup struct {
	id, name string
	server   string // whose checks it makes; "" for none
	// change turns the shipped configuration into this one; nil leaves it.
	change func(*edge) error
	// overHTTP says that the checks go to the server for HTTP, with the bootstrap for it.
	overHTTP bool
	// line is what the CPU that it adds may be, as a part of what always-allow over
	// gRPC adds; 0 means none.
	line float64
}

// The rows that the others of a table are compared with.
const (
	withoutFilter = "none"
	alwaysAllow   = "a"
)

// study is what is measured beside what.
type study struct {
	none setup   // without any check
	base setup   // what it adds to none is 1
	rows []setup // what is compared with the two
}

// all are the setups in the order of the table.
func (s *study) all() []setup { return append([]setup{s.none, s.base}, s.rows...) }

func noFilter() setup {
	return setup{id: withoutFilter, name: "no filter", change: func(e *edge) error { return e.replace() }}
}

// comparison is the study of `tollgate-bench envoy`.
func comparison() study {
	return study{noFilter(), setup{id: alwaysAllow, name: "gRPC, always allow, stock grpc-go, filter with defaults", server: stock, change: defaultFilter}, []setup{
		{id: "own", name: "Envoy's own api_key_auth and local_ratelimit", change: ownFilters},
		{id: "s", name: "gRPC, always allow, filter as we ship it", server: stock},
		{id: "b", name: "gRPC, leased", server: leased, line: .85},
		{id: "c", name: "gRPC, exact", server: exact},
		{id: "h", name: "HTTP, leased", server: leased, overHTTP: true, line: .70},
	}}
}

// defaultFilter leaves of the filter's settings those without which there is no
// check: the yardstick is what everybody has who writes such a server.
func defaultFilter(e *edge) error {
	f, err := e.filter()
	if err != nil {
		return err
	}
	for name := range f {
		if name != "@type" && name != "transport_api_version" && name != "grpc_service" {
			delete(f, name)
		}
	}
	return nil
}

// ownFilters puts what Envoy has of its own in the place of ext_authz: the same
// number of keys, in its configuration, and one bucket that refuses nothing.
func ownFilters(e *edge) error {
	const extensions = "type.googleapis.com/envoy.extensions.filters.http."
	set := keySets(e.keys)[known]
	var credentials []any
	for i, secret := range set.secrets() {
		credentials = append(credentials, object{"key": secret, "client": fmt.Sprint("client-", i)})
	}
	always := object{"default_value": object{"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "always"}
	return e.replace(
		object{"name": "envoy.filters.http.api_key_auth", "typed_config": object{
			"@type":       extensions + "api_key_auth.v3.ApiKeyAuth",
			"credentials": credentials, "key_sources": []any{object{"header": "Authorization"}},
		}},
		object{"name": "envoy.filters.http.local_ratelimit", "typed_config": object{
			"@type": extensions + "local_ratelimit.v3.LocalRateLimit", "stat_prefix": "limit",
			"token_bucket":   object{"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"},
			"filter_enabled": always, "filter_enforced": always,
		}})
}

// edgeSample is one setup in one round.
type edgeSample struct{ envoy, server, redis, p50, p99, perSecond float64 }

func (s edgeSample) total() float64 { return s.envoy + s.server + s.redis }

// beside is a setup, by rounds, and in the same rounds what it is compared with.
type beside struct{ own, base, none []edgeSample }

// through is a run through Envoys.
type through struct {
	bench
	study   study
	envoys  map[string]*envoytest.Envoy
	rate    float64
	samples map[string]*beside // at full load
	delays  map[string]*beside // at the fixed rate
}

// RunEnvoy measures through real Envoys.
func RunEnvoy(ctx context.Context, o Options) (report *EdgeReport, err error) {
	b := &through{bench: bench{Options: o, sets: keySets(o.Keys), subjects: map[string]*subject{}}, study: comparison(),
		envoys: map[string]*envoytest.Envoy{}, samples: map[string]*beside{}, delays: map[string]*beside{}}
	if err := b.study.keep(o.Rows); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if _, err := cpuTime(os.Getpid()); err != nil {
		return nil, err
	}
	binary, err := envoytest.Find()
	if err != nil {
		return nil, err
	}
	if err := b.start(ctx, binary); err != nil {
		return nil, err
	}
	if err := b.calibrate(ctx); err != nil {
		return nil, err
	}
	for _, s := range b.study.rows {
		if err := b.compare(ctx, s); err != nil {
			return nil, err
		}
	}
	return b.edgeReport(binary), nil
}

// keep leaves the rows with these ids, or all if none is named.
func (s *study) keep(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	var names []string
	kept := map[string]setup{}
	for _, row := range s.rows {
		names, kept[row.id] = append(names, row.id), row
	}
	s.rows = nil
	for _, id := range ids {
		row, ok := kept[id]
		if !ok {
			return fmt.Errorf("--rows: unknown row %q, want some of %s", id, strings.Join(names, ", "))
		}
		s.rows = append(s.rows, row)
	}
	return nil
}

// start starts the servers and an Envoy for each setup.
func (b *through) start(ctx context.Context, binary string) error {
	if err := b.files(); err != nil {
		return err
	}
	if err := b.startLoad(); err != nil {
		return err
	}
	servers := map[string][]string{leased: {"--authz-http-address", "127.0.0.1:0"}, exact: nil}
	for server, more := range servers {
		if err := b.startServe(ctx, server, append(more, limitsOf(server)...), b.sets[known]); err != nil {
			return err
		}
	}
	if err := b.startYardsticks(ctx, stock); err != nil {
		return err
	}
	for _, s := range b.study.all() {
		if err := b.startEnvoy(ctx, binary, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (b *through) startEnvoy(ctx context.Context, binary string, s setup) error {
	e, err := newEdge(s.overHTTP)
	if err != nil {
		return err
	}
	e.keys = b.Keys
	if err := e.forMeasuring(); err != nil {
		return err
	}
	if s.change != nil {
		if err := s.change(e); err != nil {
			return err
		}
	}
	bootstrap, err := e.bytes()
	if err != nil {
		return err
	}
	settings := envoytest.Settings{Binary: binary, Bootstrap: bootstrap}
	if s.server != "" {
		settings.Tollgate = b.subjects[s.server].GRPC
		if s.overHTTP {
			settings.Tollgate = b.subjects[s.server].AuthzHTTP
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	running, err := envoytest.Start(ctx, settings)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, running.Stop)
	b.envoys[s.id] = running
	return nil
}

// edgeCallers is how many requests are under way at once.
const edgeCallers = 64

func (b *through) edgeJob(s setup) load.Job {
	return load.Job{Protocol: load.HTTP, Address: b.envoys[s.id].Addr(), Template: b.file("client-request"), Placeholder: placeholder(),
		Secrets: b.file(known), Zipf: zipf, Seed: 1, Callers: edgeCallers, Connections: edgeCallers}
}

// calibrate sends each key once through each Envoy, and sets the rate at which
// latency is measured: half of what the base can do.
func (b *through) calibrate(ctx context.Context) error {
	for _, s := range b.study.all() {
		job := b.edgeJob(s)
		job.Once = true
		if _, err := b.send(ctx, s, job); err != nil {
			return err
		}
		if s.id != b.study.base.id {
			continue
		}
		job.Once, job.Duration = false, b.Duration
		r, err := b.send(ctx, s, job)
		if err != nil {
			return err
		}
		b.rate = r.PerSecond() / 2
	}
	return nil
}

// send makes a job. Every answer must be the application's.
func (b *through) send(ctx context.Context, s setup, job load.Job) (*load.Result, error) {
	r, err := b.do(ctx, job)
	if err != nil {
		return nil, err
	}
	if r.Calls == 0 || r.Allowed != r.Calls {
		return nil, fmt.Errorf("%s: of %d requests %d were answered 200, %d not at all (%s); %v\n%s", s.name, r.Calls, r.Allowed, r.Failed,
			r.Failure, r.Statuses, b.envoys[s.id].Log())
	}
	return r, nil
}

// compare measures a setup beside what it is compared with: CPU time at full load,
// then latency at the fixed rate.
func (b *through) compare(ctx context.Context, s setup) error {
	job := b.edgeJob(s)
	job.Duration = b.Warmup
	if _, err := b.send(ctx, s, job); err != nil {
		return err
	}
	full, fixed := &beside{}, &beside{}
	for round := range b.Rounds {
		b.say("%s, round %d of %d", s.name, round+1, b.Rounds)
		if err := b.turn(ctx, s, round, 0, full); err != nil {
			return err
		}
	}
	for round := range b.OpenLoop {
		b.say("%s, latency, round %d of %d", s.name, round+1, b.OpenLoop)
		if err := b.turn(ctx, s, round, b.rate, fixed); err != nil {
			return err
		}
	}
	b.samples[s.id], b.delays[s.id] = full, fixed
	return nil
}

// turn measures a setup, the base, the setup again, and no filter, or the other way
// around. No server waits so long that what it keeps for busy keys goes.
func (b *through) turn(ctx context.Context, s setup, round int, rate float64, into *beside) error {
	order := []setup{s, b.study.base, s, b.study.none}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	got := map[string][]edgeSample{}
	for i, now := range order {
		sample, err := b.edgeMeasure(ctx, now, rate, uint64(4*round+i))
		if err != nil {
			return err
		}
		got[now.id] = append(got[now.id], *sample)
	}
	own := got[s.id]
	into.own = append(into.own, own[0].mean(own[1]))
	into.base, into.none = append(into.base, got[b.study.base.id]...), append(into.none, got[b.study.none.id]...)
	return nil
}

// mean returns the mean of two measurements.
func (s edgeSample) mean(t edgeSample) edgeSample {
	return edgeSample{(s.envoy + t.envoy) / 2, (s.server + t.server) / 2, (s.redis + t.redis) / 2, (s.p50 + t.p50) / 2, (s.p99 + t.p99) / 2,
		(s.perSecond + t.perSecond) / 2}
}

// edgeMeasure measures a setup at a fixed rate, or at full load if that is 0.
func (b *through) edgeMeasure(ctx context.Context, s setup, rate float64, seed uint64) (*edgeSample, error) {
	job := b.edgeJob(s)
	if rate > 0 {
		job.Rate, job.Callers, job.Connections = rate, 2*edgeCallers, 2*edgeCallers
	}
	job.Duration, job.Seed = min(settle, b.Duration), seed
	if _, err := b.send(ctx, s, job); err != nil {
		return nil, err
	}
	before, err := b.cpu(s)
	if err != nil {
		return nil, err
	}
	job.Duration, job.Seed = b.Duration, seed+1_000
	r, err := b.send(ctx, s, job)
	if err != nil {
		return nil, err
	}
	after, err := b.cpu(s)
	if err != nil {
		return nil, err
	}
	n := float64(r.Calls)
	return &edgeSample{envoy: micros(after[0]-before[0]) / n, server: micros(after[1]-before[1]) / n, redis: micros(after[2]-before[2]) / n,
		p50: micros(r.P50), p99: micros(r.P99), perSecond: r.PerSecond()}, nil
}

// cpu returns the CPU times of Envoy, server and Redis.
func (b *through) cpu(s setup) (times [3]time.Duration, err error) {
	pids := [3]int{b.envoys[s.id].PID()}
	if server := b.subjects[s.server]; server != nil {
		pids[1] = server.pid()
		if server.redis != nil {
			pids[2] = server.redis.pid()
		}
	}
	for i, pid := range pids {
		if pid == 0 {
			continue
		}
		if times[i], err = cpuTime(pid); err != nil {
			return times, err
		}
	}
	return times, nil
}
