package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"tollgate/cmd/tollgate/bench/load"
	"tollgate/envoy/envoytest"
)

// setup is an Envoy with what answers its checks.
type setup struct {
	id, name string
	server   string // whose checks it makes; "" for none
	// change turns the shipped configuration into this one; nil leaves it.
	change func(*edge) error
	// lane says that the checks go to the HTTP lane, with the bootstrap for it.
	lane bool
	// line is what the CPU that it adds may be, as a part of what always-allow over
	// gRPC adds; 0 means none.
	line float64
}

// overUnix is the leased server on a unix socket.
const overUnix = "leased-unix"

// withoutFilter is the row that the others are compared with, alwaysAllow the one
// that their additions are compared with.
const (
	withoutFilter = "none"
	alwaysAllow   = "a"
)

// setups are the rows of `tollgate bench envoy`.
func setups() []setup {
	return []setup{
		{id: withoutFilter, name: "no filter", change: func(e *edge) error { return e.replace() }},
		{id: "own", name: "Envoy's own api_key_auth and local_ratelimit", change: ownFilters},
		{id: alwaysAllow, name: "ext_authz gRPC, always allow, stock grpc-go", server: stock},
		{id: "b", name: "ext_authz gRPC, leased", server: leased, line: .85},
		{id: "c", name: "ext_authz gRPC, exact", server: exact},
		{id: "h", name: "ext_authz HTTP lane, leased", server: leased, lane: true, line: .70},
	}
}

// settingsStudy are the rows of --settings: one setting of Envoy each, changed from
// what is shipped.
func settingsStudy() []setup {
	filter := func(change func(object)) func(*edge) error {
		return func(e *edge) error {
			f, err := e.filter()
			if err == nil {
				change(f)
			}
			return err
		}
	}
	unlisted := []any{"accept", "accept-encoding", "accept-language", "cache-control", "cookie", "idempotency-key", "origin", "referer",
		"traceparent", "tracestate", "user-agent", "x-client-version", "x-forwarded-proto"}
	return []setup{
		{id: withoutFilter, name: "no filter", change: func(e *edge) error { return e.replace() }},
		{id: alwaysAllow, name: "always allow, as shipped", server: stock},
		{id: "shipped", name: "leased, as shipped", server: leased},
		{id: "unix", name: "over a unix socket", server: overUnix},
		{id: "all", name: "without allowed_headers", server: leased, change: filter(func(f object) { delete(f, "allowed_headers") })},
		{id: "disallowed", name: "disallowed_headers instead", server: leased, change: filter(func(f object) {
			delete(f, "allowed_headers")
			f["disallowed_headers"] = patterns(unlisted)
		})},
		{id: "fewest", name: "allowed_headers: only what this policy reads", server: leased, change: filter(func(f object) {
			f["allowed_headers"] = patterns([]any{"authorization", ":path", "x-envoy-external-address"})
		})},
		{id: "not-raw", name: "without encode_raw_headers", server: leased, change: filter(func(f object) { delete(f, "encode_raw_headers") })},
		{id: "not-validated", name: "without validate_mutations", server: leased, change: filter(func(f object) { delete(f, "validate_mutations") })},
		{id: "connections", name: "16 streams a connection", server: leased, change: func(e *edge) error {
			cluster, err := e.cluster()
			if err != nil {
				return err
			}
			options, ok := at(cluster, "typed_extension_protocol_options", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config", "http2_protocol_options").(object)
			if !ok {
				return errors.New("bootstrap: the cluster has no http2_protocol_options")
			}
			options["max_concurrent_streams"] = 16
			return nil
		}},
	}
}

func patterns(names []any) object {
	list := make([]any, len(names))
	for i, name := range names {
		list[i] = object{"exact": name}
	}
	return object{"patterns": list}
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

// EdgeReport is what a run through Envoy has measured. Its JSON form is the output
// of -o json.
type EdgeReport struct {
	Version   string    `json:"version"`
	Date      time.Time `json:"date"`
	Machine   string    `json:"machine"`
	CPUs      int       `json:"cpus"`
	Go        string    `json:"go"`
	Envoy     string    `json:"envoy"`
	Load      string    `json:"load"`
	Rounds    int       `json:"rounds"`
	Seconds   float64   `json:"seconds"`
	PerSecond float64   `json:"requests_per_second"` // at which latency was measured

	Rows  []EdgeRow `json:"rows"`
	Lines []Line    `json:"lines"`
}

// EdgeRow is one setup. CPU times are µs per request, at full load; latencies µs,
// at the fixed rate.
type EdgeRow struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Envoy    Stat   `json:"envoy_cpu_us"`
	Server   Stat   `json:"server_cpu_us"`
	Redis    Stat   `json:"redis_cpu_us"`
	Total    Stat   `json:"total_cpu_us"`
	Added    Stat   `json:"added_cpu_us"` // to no filter, in the same round
	Ratio    Stat   `json:"ratio"`        // of what it adds to what always-allow adds
	P50      Stat   `json:"p50_us"`
	P99      Stat   `json:"p99_us"`
	AddedP50 Stat   `json:"added_p50_us"`
	AddedP99 Stat   `json:"added_p99_us"`

	PerSecond Stat `json:"requests_per_second"` // at full load
}

// edgeSample is one setup in one round.
type edgeSample struct{ envoy, server, redis, p50, p99, perSecond float64 }

func (s edgeSample) total() float64 { return s.envoy + s.server + s.redis }

// through is a run through Envoys.
type through struct {
	bench
	setups  []setup
	envoys  map[string]*envoytest.Envoy
	rate    float64
	samples map[string][]edgeSample
}

// RunEnvoy measures through real Envoys, or, with settings, what single settings of
// Envoy are worth.
func RunEnvoy(ctx context.Context, o Options, settings bool) (report *EdgeReport, err error) {
	b := &through{bench: bench{Options: o, sets: keySets(o.Keys), subjects: map[string]*subject{}}, setups: setups(),
		envoys: map[string]*envoytest.Envoy{}, samples: map[string][]edgeSample{}}
	if settings {
		b.setups = settingsStudy()
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if _, err := cpuTime(os.Getpid()); err != nil {
		return nil, err
	}
	binary, err := envoytest.Find()
	if err != nil {
		return nil, err
	}
	if err := b.start(ctx, binary, settings); err != nil {
		return nil, err
	}
	if err := b.calibrate(ctx); err != nil {
		return nil, err
	}
	for round := range b.Rounds {
		b.say("round %d of %d", round+1, b.Rounds)
		if err := b.edgeRound(ctx, round); err != nil {
			return nil, err
		}
	}
	return b.edgeReport(binary), nil
}

// start starts the servers and an Envoy for each setup.
func (b *through) start(ctx context.Context, binary string, settings bool) error {
	if err := b.files(); err != nil {
		return err
	}
	if err := b.startLoad(); err != nil {
		return err
	}
	servers := map[string][]string{leased: {"--authz-http-address", "127.0.0.1:0"}, exact: nil}
	if settings {
		servers = map[string][]string{leased: nil, overUnix: {"--grpc-address", "unix:" + b.file("grpc")}}
	}
	for server, more := range servers {
		if err := b.startServe(ctx, server, append(more, limitsOf(server)...), b.sets[known]); err != nil {
			return err
		}
	}
	if err := b.startYardsticks(ctx, stock); err != nil {
		return err
	}
	for _, s := range b.setups {
		if err := b.startEnvoy(ctx, binary, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (b *through) startEnvoy(ctx context.Context, binary string, s setup) error {
	e, err := newEdge(s.lane)
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
		if s.lane {
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
// latency is measured: half of what always-allow can do.
func (b *through) calibrate(ctx context.Context) error {
	for _, s := range b.setups {
		job := b.edgeJob(s)
		job.Once = true
		if _, err := b.send(ctx, s, job); err != nil {
			return err
		}
		if s.id != alwaysAllow {
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

func (b *through) edgeRound(ctx context.Context, round int) error {
	list := append([]setup(nil), b.setups...)
	rand.New(rand.NewPCG(uint64(round), 2)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, s := range list {
		sample, err := b.edgeMeasure(ctx, s, uint64(round))
		if err != nil {
			return err
		}
		b.samples[s.id] = append(b.samples[s.id], *sample)
	}
	return nil
}

// edgeMeasure measures CPU time at full load, then latency at the fixed rate.
func (b *through) edgeMeasure(ctx context.Context, s setup, round uint64) (*edgeSample, error) {
	job := b.edgeJob(s)
	job.Duration, job.Seed = b.Warmup, round
	if _, err := b.send(ctx, s, job); err != nil {
		return nil, err
	}
	before, err := b.cpu(s)
	if err != nil {
		return nil, err
	}
	job.Duration, job.Seed = b.Duration, round+1_000
	full, err := b.send(ctx, s, job)
	if err != nil {
		return nil, err
	}
	after, err := b.cpu(s)
	if err != nil {
		return nil, err
	}
	job.Rate, job.Callers, job.Connections = b.rate, 2*edgeCallers, 2*edgeCallers
	fixed, err := b.send(ctx, s, job)
	if err != nil {
		return nil, err
	}
	n := float64(full.Calls)
	return &edgeSample{envoy: micros(after[0]-before[0]) / n, server: micros(after[1]-before[1]) / n, redis: micros(after[2]-before[2]) / n,
		p50: micros(fixed.P50), p99: micros(fixed.P99), perSecond: full.PerSecond()}, nil
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

func (b *through) edgeReport(binary string) *EdgeReport {
	r := &EdgeReport{Version: b.Version, Date: time.Now().UTC(), Machine: machine(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Envoy:  envoyVersion(binary),
		Load:   fmt.Sprintf("%d connections, %d keys (Zipf %v), HTTP/1.1, Envoy with 1 worker, answering by itself", edgeCallers, b.Keys, zipf),
		Rounds: b.Rounds, Seconds: b.Duration.Seconds(), PerSecond: b.rate}
	for _, s := range b.setups {
		row := newEdgeRow(s, b.samples[s.id], b.samples[withoutFilter], b.samples[alwaysAllow])
		r.Rows = append(r.Rows, row)
		if s.line > 0 {
			r.Lines = append(r.Lines, Line{Case: s.id, What: "CPU added to no filter, ratio to what always-allow adds", Limit: s.line,
				Got: row.Ratio.Median, Guards: b.Judge})
		}
	}
	return r
}

func newEdgeRow(s setup, samples, none, allow []edgeSample) EdgeRow {
	stat := func(figure func(i int, s edgeSample) float64) Stat {
		list := make([]float64, len(samples))
		for i, s := range samples {
			list[i] = figure(i, s)
		}
		return newStat(list)
	}
	row := EdgeRow{ID: s.id, Name: s.name,
		Envoy:     stat(func(_ int, s edgeSample) float64 { return s.envoy }),
		Server:    stat(func(_ int, s edgeSample) float64 { return s.server }),
		Redis:     stat(func(_ int, s edgeSample) float64 { return s.redis }),
		Total:     stat(func(_ int, s edgeSample) float64 { return s.total() }),
		Added:     stat(func(i int, s edgeSample) float64 { return s.total() - none[i].total() }),
		P50:       stat(func(_ int, s edgeSample) float64 { return s.p50 }),
		P99:       stat(func(_ int, s edgeSample) float64 { return s.p99 }),
		AddedP50:  stat(func(i int, s edgeSample) float64 { return s.p50 - none[i].p50 }),
		AddedP99:  stat(func(i int, s edgeSample) float64 { return s.p99 - none[i].p99 }),
		PerSecond: stat(func(_ int, s edgeSample) float64 { return s.perSecond })}
	if s.id != withoutFilter {
		row.Ratio = stat(func(i int, s edgeSample) float64 {
			return (s.total() - none[i].total()) / (allow[i].total() - none[i].total())
		})
	}
	return row
}
