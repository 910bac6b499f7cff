package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"tollgate/cmd/tollgate-bench/bench/load"
	"tollgate/testdata"
)

// Options say what to run and for how long.
type Options struct {
	// Binary is the tollgate that is measured. Self is tollgate-bench, which is also
	// the load and the yardstick.
	Binary  string
	Self    string
	Version string
	// Rounds and Duration: after Warmup a case and case a are measured in turn for Duration each,
	// Rounds times, and then OpenLoop times at a fixed rate, for latencies; 0 leaves that out.
	Rounds, OpenLoop int
	Duration, Warmup time.Duration
	// Keys is how many keys the load has.
	Keys int
	// Request names the recorded request, see testdata.CheckRequest.
	Request string
	// Judge says that the run fails by the lines of ratios, of CPU time and p99, JudgeMemory by
	// those of allocations.
	Judge, JudgeMemory bool
	// Rows leaves, of the rows of a run through Envoy, those with these ids; none leaves all.
	Rows []string
	// Features also measures what parts cost that can be switched off.
	Features bool
	// Growth also measures how cost and memory grow.
	Growth bool
	// LargestKeys is the largest number of keys of Growth.
	LargestKeys int
	// Profile is the file for a CPU profile of the leased server; "" takes none.
	Profile string
	// Progress is told what is being done.
	Progress io.Writer
}

// The load: closed loop, as many callers as an Envoy has requests under way.
const (
	callers     = 64
	connections = 8
	openCallers = 512 // enough that a call never waits for another to end
)

// bench is a run under way.
type bench struct {
	Options
	dir      string
	closers  []func() error // in the order of starting
	load     *process
	results  *bufio.Reader
	sets     map[string]keySet
	subjects map[string]*subject
	samples  map[string][]sample // by case, one a round
	bases    map[string][]sample // of case a beside each case, one a round
}

// Run measures and returns the report. An error means that nothing can be said: a
// part is missing, a process has ended, or an answer was wrong.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	b := &bench{Options: o, sets: keySets(o.Keys), subjects: map[string]*subject{}, samples: map[string][]sample{}, bases: map[string][]sample{}}
	defer func() { err = errors.Join(err, b.close()) }()
	if _, err := cpuTime(os.Getpid()); err != nil {
		return nil, err
	}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	atRest, err := b.atRest()
	if err != nil {
		return nil, err
	}
	if err := b.prime(ctx); err != nil {
		return nil, err
	}
	base := b.turn(cases()[0])
	for _, c := range cases()[1:] {
		if b.samples[c.id], b.bases[c.id], err = b.pair(ctx, b.turn(c), base, b.Rounds); err != nil {
			return nil, err
		}
	}
	report = b.report()
	if err := b.extras(ctx, report); err != nil {
		return nil, err
	}
	b.judge(report, atRest)
	return report, nil
}

// extras is what is measured after the rounds.
func (b *bench) extras(ctx context.Context, report *Report) (err error) {
	if b.OpenLoop > 0 {
		b.say("latency at a fixed rate")
		if report.OpenLoop, err = b.openLoop(ctx, report.Rows[0].PerSecond.Median/2); err != nil {
			return err
		}
	}
	if b.Profile != "" {
		b.say("CPU profile of case b")
		if err := b.profile(ctx); err != nil {
			return err
		}
	}
	if b.Features {
		if report.Features, err = b.features(ctx); err != nil {
			return err
		}
	}
	if b.Growth {
		report.Growth, err = b.growth(ctx)
	}
	return err
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Progress, "bench: "+format+"\n", args...)
}

// close ends what was started, the last first, and removes the files.
func (b *bench) close() error {
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	return errors.Join(errs...)
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// prepare writes the files and starts all processes.
func (b *bench) prepare(ctx context.Context) error {
	if err := b.files(); err != nil {
		return err
	}
	if err := b.startLoad(); err != nil {
		return err
	}
	for _, server := range []string{leased, exact} {
		b.say("%d keys for %s", b.Keys, server)
		if err := b.startOurs(ctx, server, b.sets[known], b.sets[spent]); err != nil {
			return err
		}
	}
	b.say("%d keys for %s", b.Keys, concurrent)
	if err := b.startOurs(ctx, concurrent, b.sets[underWay]); err != nil {
		return err
	}
	return b.startYardsticks(ctx, stock, floor)
}

// files makes the folder of the run, and in it the files that the processes read.
func (b *bench) files() (err error) {
	// A short path: sockets lie in it.
	if b.dir, err = os.MkdirTemp("", "tgbench"); err != nil {
		return err
	}
	b.closers = append(b.closers, func() error { return os.RemoveAll(b.dir) })
	request, err := testdata.CheckRequest(b.Request)
	if err != nil {
		return err
	}
	entry, err := logEntry()
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"log-entry": entry, "request": request, "client-request": []byte(clientRequest()), "policy.yaml": []byte(policyText()), "slots.yaml": []byte(slotsPolicyText())} {
		if err := os.WriteFile(b.file(name), data, 0o600); err != nil {
			return err
		}
	}
	for name, set := range b.sets {
		if err := set.write(b.file(name)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startLoad() (err error) {
	if b.load, err = spawn("the load", true, b.Self, cleanEnvironment(), "load"); err != nil {
		return err
	}
	b.closers = append(b.closers, b.load.stop)
	b.results = bufio.NewReader(b.load.out)
	return nil
}

// startOurs starts a Redis with these keys and a tollgate in front of it.
func (b *bench) startOurs(ctx context.Context, name string, sets ...keySet) error {
	return b.startServe(ctx, name, append([]string{"--pprof-address", "127.0.0.1:0"}, limitsOf(name)...), sets...)
}

func (b *bench) startServe(ctx context.Context, name string, more []string, sets ...keySet) error {
	redis, err := startRedis(b.dir, name)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, redis.stop)
	for _, set := range sets {
		if err := set.seed(ctx, redis.client); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
	}
	policy := "policy.yaml"
	if name == concurrent {
		policy = "slots.yaml"
	}
	args := append([]string{"serve", "--policy", b.file(policy), "--store", "unix://" + redis.socket,
		"--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
		// A line for each denial is for people; the three cases with denials would measure the log.
		"--log-decisions", "none",
		// Where 64 callers keep both CPUs busy all the time, a decision may wait.
		"--deadline", "2s",
		// No proxy has to notice the end.
		"--drain-delay", "0s"}, more...)
	s, err := startSubject(b.Binary, b.dir, name, redis, args...)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, s.stop)
	b.subjects[name] = s
	return nil
}

// startYardsticks starts the always-allow server and grpc-go alone, or one of them,
// with the headers that ours answers.
func (b *bench) startYardsticks(ctx context.Context, names ...string) error {
	job := b.job(leased, known)
	job.Once, job.Keys, job.Callers = true, 1, 1
	result, err := b.do(ctx, job)
	if err != nil {
		return err
	}
	if result.Allowed != 1 {
		return fmt.Errorf("the first check was not allowed: %+v\n%s", result, b.subjects[leased].log)
	}
	if err := os.WriteFile(b.file("reply"), result.Reply, 0o600); err != nil {
		return err
	}
	for _, name := range names {
		args := []string{"yardstick", "--reply", b.file("reply")}
		if name == floor {
			args = append(args, "--floor")
		}
		s, err := startSubject(b.Self, b.dir, name, nil, args...)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, s.stop)
		b.subjects[name] = s
	}
	return nil
}

// job is the load of a case.
func (b *bench) job(server, keys string) load.Job {
	return load.Job{Protocol: load.GRPC, Address: b.subjects[server].GRPC, Template: b.file("request"), Placeholder: placeholder(),
		Secrets: b.file(keys), Zipf: zipf, Seed: 1, Callers: callers, Connections: connections}
}

// do has the load make a job.
func (b *bench) do(ctx context.Context, j load.Job) (*load.Result, error) {
	line, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	if _, err := b.load.in.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("the load: %w\n%s", err, b.load.log)
	}
	type answer struct {
		line []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		line, err := b.results.ReadBytes('\n')
		answered <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-answered:
		if a.err != nil {
			return nil, fmt.Errorf("the load: %w\n%s", a.err, b.load.log)
		}
		result := &load.Result{}
		return result, json.Unmarshal(a.line, result)
	}
}

// prime makes every server meet every key once, so that the rounds measure what
// goes on all day, and spends what is to be spent.
func (b *bench) prime(ctx context.Context) error {
	b.say("first requests")
	for _, c := range cases() {
		job := b.turn(c).job
		job.Once = true
		result, err := b.do(ctx, job)
		if err != nil {
			return err
		}
		if result.Failed > 0 {
			return fmt.Errorf("case %s: %d first requests were not answered: %s", c.id, result.Failed, result.Failure)
		}
	}
	return nil
}

// settle is the load before each measurement, after the other server's.
const settle = 300 * time.Millisecond

// warm puts a job's server into the state that it has under that job.
func (b *bench) warm(ctx context.Context, job load.Job) error {
	job.Duration = b.Warmup
	_, err := b.do(ctx, job)
	return err
}

// turn is what is measured for a moment: a case under a load.
type turn struct {
	testCase
	job load.Job
}

func (b *bench) turn(c testCase) turn {
	job := b.job(c.server, c.keys)
	if c.logged {
		job.LogEntry = b.file("log-entry")
	}
	return turn{c, job}
}

// pair measures a case beside another, in turn, and returns the samples of both. So what is
// compared lies within seconds, and no server is left alone for so long that what it keeps for busy
// keys goes: a server that serves is not in that state.
func (b *bench) pair(ctx context.Context, c, base turn, rounds int) (own, others []sample, err error) {
	if err := b.warm(ctx, c.job); err != nil {
		return nil, nil, err
	}
	turns, samples := [2]turn{base, c}, [2][]sample{}
	for round := range rounds {
		b.say("case %s, round %d of %d", c.id, round+1, rounds)
		for i := range turns {
			which := (i + round) % 2
			s, err := b.measure(ctx, turns[which].testCase, turns[which].job)
			if err != nil {
				return nil, nil, err
			}
			samples[which] = append(samples[which], *s)
		}
	}
	return samples[1], samples[0], nil
}

// report is what the rounds have measured.
func (b *bench) report() *Report {
	r := &Report{Version: b.Version, Date: time.Now().UTC(), Machine: machine(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Load:   fmt.Sprintf("%d callers, %d connections, %d keys (Zipf %v), recorded request %q", callers, connections, b.Keys, zipf, b.Request),
		Rounds: b.Rounds, Seconds: b.Duration.Seconds()}
	var all []sample // of case a
	for _, c := range cases()[1:] {
		all = append(all, b.bases[c.id]...)
		r.Rows = append(r.Rows, newRow(c, b.samples[c.id], b.bases[c.id]))
	}
	r.Rows = slices.Insert(r.Rows, 0, newRow(cases()[0], all, all))
	return r
}

// judge adds the lines.
func (b *bench) judge(r *Report, atRest float64) {
	for i, c := range cases() {
		r.Lines = append(r.Lines, c.lines(&r.Rows[i], &r.Rows[len(r.Rows)-1], &b.Options)...)
	}
	if o := r.OpenLoop; o != nil {
		r.Lines = append(r.Lines, Line{Case: "b", What: "p99 at half of (a)'s maximum, ratio to (a)", Limit: 1.1, Got: o.Ratio.Median, Guards: b.Judge})
	}
	r.Lines = append(r.Lines, Line{Case: "b", What: "RSS at rest, MB", Limit: 40, Got: atRest / 1e6})
	r.Lines = append(r.Lines, featureLines(r.Features, b.Judge)...)
	r.Lines = append(r.Lines, growthLines(r.Growth, b.Judge)...)
}

// atRest returns the RSS of a server that has been asked once.
func (b *bench) atRest() (float64, error) { return residentBytes(b.subjects[leased].pid()) }
