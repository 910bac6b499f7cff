package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate-bench/bench"
)

// benchFlags are the flags of bench.
type benchFlags struct {
	bench.Options
	latencies     int // how many rounds at a fixed rate there are for each round
	short         bool
	unjudged      bool
	output, chart string
	binary        string // the tollgate to measure
}

func newRoot() *cobra.Command {
	// What the slowest percent takes differs more from round to round than CPU time does.
	f := &benchFlags{latencies: 2}
	f.JudgeMemory = true
	cmd := &cobra.Command{
		Use:           "tollgate-bench",
		Short:         "Measure what a decision costs",
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: `Measure, on this machine, the CPU time of a decision beside that of a server that
decides nothing: stock grpc-go, the generated code, always allow. Servers, load and
a real redis-server (which must be on PATH) run as processes of their own; every
case is measured in turn with always-allow, and only neighbours are compared.

Latencies are also compared at a fixed rate, half of what always-allow can do, in
twice as many rounds.

Prints a table, or JSON, and writes a chart. Exits with 1 if a ratio of server CPU,
that of p99 at the fixed rate, or what a leased check allocates beyond grpc-go with
our settings misses its line by more than 10 %, or has nothing to compare. --short
measures a moment of everything and judges no time, only what is allocated. (make
bench-short, as CI runs it, also compares the codec with the generated code.)

It and the tollgate that it measures should be built with the same profile (-pgo),
as make bench does: it is the always-allow server too.

It needs Linux and some minutes in which the machine does nothing else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, func(ctx context.Context, o bench.Options) (report, error) { return bench.Run(ctx, o) })
		},
	}
	f.add(cmd, "tollgate-bench.svg")
	flags := cmd.Flags()
	flags.StringVar(&f.Request, "request", "all-headers", "recorded request: all-headers, as Envoy sends it by default (15 headers), or shipped, with the allowed_headers of a bootstrap of ours (5)")
	flags.BoolVar(&f.Features, "features", false, "also measure what a check costs with usage, access logs and the error log beside one without")
	flags.BoolVar(&f.Growth, "growth", false, "also measure growth from 1 to 1,000,000 keys and from 1 to 6 windows, and memory")
	flags.StringVar(&f.Profile, "profile", "", "file for a CPU profile of the leased server")
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(newEnvoy(), newLoad(), newYardstick())
	return cmd
}

// newEnvoy measures the same through Envoy.
func newEnvoy() *cobra.Command {
	f := &benchFlags{latencies: 1}
	cmd := &cobra.Command{
		Use:   "envoy [flags]",
		Short: "Measure what a decision adds to a request through a real Envoy",
		Long: `Measure what a check adds to a request through a real Envoy: CPU time of Envoy,
the server and Redis at full load, and latency at a fixed rate, half of what
always-allow over gRPC can do. Envoy has one worker and answers allowed requests
itself. It is ENVOY_BIN, else .tools/envoy, else envoy on PATH.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, func(ctx context.Context, o bench.Options) (report, error) { return bench.RunEnvoy(ctx, o) })
		},
	}
	f.Request = "shipped" // for the first check alone; the others are Envoy's
	f.add(cmd, "tollgate-bench-envoy.svg")
	cmd.Flags().StringSliceVar(&f.Rows, "rows", nil, "measure only these rows, by the ids in the table")
	return cmd
}

// warmup is how often the duration of a measurement a server is warmed up: with the
// default, half of the time by whose use of a key a lease is measured, see
// counters.Leases, so that nearly all keys of the load have leases then.
const warmup = 15

// add adds the flags that both commands have.
func (f *benchFlags) add(cmd *cobra.Command, chart string) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&f.Rounds, "rounds", 7, "rounds")
	flags.DurationVar(&f.Duration, "duration", 2*time.Second, "time of each case in each round")
	flags.IntVar(&f.Keys, "keys", 10_000, "keys of the load")
	flags.BoolVar(&f.short, "short", false, "a moment of everything, in which no time is judged")
	flags.BoolVar(&f.unjudged, "unjudged", false, "end well whatever was measured")
	flags.StringVarP(&f.output, "output", "o", "table", "table or json")
	flags.StringVar(&f.binary, "binary", "", "tollgate to measure (default: beside this program, else on PATH)")
	flags.StringVar(&f.chart, "chart", filepath.Join(os.TempDir(), chart), "file for the chart, an SVG; empty for none")
}

// report is what a run has measured.
type report interface {
	WriteTable(io.Writer) error
	WriteJSON(io.Writer) error
	WriteChart(io.Writer) error
	Fails() []bench.Line
}

// run measures, prints and judges.
func (f *benchFlags) run(cmd *cobra.Command, measure func(context.Context, bench.Options) (report, error)) error {
	if err := f.check(); err != nil {
		return err
	}
	f.Warmup, f.OpenLoop, f.Judge, f.LargestKeys = warmup*f.Duration, f.latencies*f.Rounds, !f.unjudged, 1_000_000
	f.JudgeMemory = f.JudgeMemory && !f.unjudged
	if f.short {
		f.shorten()
	}
	if err := f.find(cmd.ErrOrStderr()); err != nil {
		return err
	}
	stop, release := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer release()
	r, err := measure(stop, f.Options)
	if err != nil {
		return err
	}
	if f.output == "json" {
		err = r.WriteJSON(cmd.OutOrStdout())
	} else {
		err = r.WriteTable(cmd.OutOrStdout())
	}
	if f.chart != "" {
		err = errors.Join(err, writeChart(f.chart, r.WriteChart))
		fmt.Fprintf(cmd.ErrOrStderr(), "bench: chart: %s\n", f.chart)
	}
	if fails := r.Fails(); err == nil && len(fails) > 0 {
		err = fmt.Errorf("missed by more than 10 %%: %s", bench.FailureText(fails))
	}
	return err
}

// find finds the two programs that a run consists of.
func (f *benchFlags) find(progress io.Writer) (err error) {
	f.Progress = progress
	if f.Self, err = os.Executable(); err != nil {
		return err
	}
	if f.Binary = f.binary; f.Binary == "" {
		f.Binary = filepath.Join(filepath.Dir(f.Self), "tollgate")
		if _, err := os.Stat(f.Binary); err != nil {
			f.Binary = "tollgate"
		}
	}
	if f.Binary, err = exec.LookPath(f.Binary); err != nil {
		return fmt.Errorf("no tollgate to measure (make build, or --binary): %w", err)
	}
	out, err := exec.Command(f.Binary, "version").Output()
	if err != nil {
		return fmt.Errorf("%s version: %w", f.Binary, err)
	}
	f.Version, _, _ = strings.Cut(strings.TrimPrefix(string(out), "tollgate "), " go") // with its commit and date
	return nil
}

// shorten is what --short makes of the options.
func (f *benchFlags) shorten() {
	f.Rounds, f.OpenLoop, f.Duration, f.Warmup, f.Judge = 1, 1, 300*time.Millisecond, 100*time.Millisecond, false
	f.Keys, f.LargestKeys = min(f.Keys, 1_000), 20_000
	if f.JudgeMemory {
		// What counts are checks as they go all day, of keys that hold leases: so many keys as get
		// there in half a second, and three rounds, because how much grpc-go writes at a time
		// differs.
		f.Rounds, f.Warmup, f.Keys = 3, 500*time.Millisecond, min(f.Keys, 200)
	}
}

func (f *benchFlags) check() error {
	switch {
	case f.Rounds < 1:
		return fmt.Errorf("--rounds: %d is less than 1", f.Rounds)
	case f.Duration < 10*time.Millisecond:
		return fmt.Errorf("--duration: %s is less than 10ms", f.Duration)
	case f.Keys < 1 || f.Keys > 1_000_000:
		return fmt.Errorf("--keys: %d is not 1 to 1000000", f.Keys)
	case f.Request != "shipped" && f.Request != "all-headers":
		return fmt.Errorf("--request: unknown value %q, want shipped or all-headers", f.Request)
	}
	if f.output != "table" && f.output != "json" {
		return fmt.Errorf("--output: unknown value %q, want table or json", f.output)
	}
	return nil
}

func writeChart(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}
