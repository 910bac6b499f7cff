package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tollgate/cmd/tollgate-bench/bench"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy/envoytest"
	"tollgate/policy/connect/redistest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tollgate-bench": main})
}

// benchmark runs the binary, because the load is the binary too, and returns
// its JSON and its exit code.
func benchmark(t *testing.T, into any, args ...string) (code int) {
	t.Helper()
	redistest.Need(t)
	chart := t.TempDir() + "/chart.svg"
	cmd := exec.CommandContext(t.Context(), "tollgate-bench", append(args, "--binary", tollgatetest.Build(t), "-o", "json", "--chart", chart)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		t.Fatalf("%v\n%s\n%s", err, &stdout, &stderr)
	}
	file, err := os.Open(chart)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for d := xml.NewDecoder(file); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return cmd.ProcessState.ExitCode()
}

func TestBadFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--rounds", "0"}, "--rounds: 0 is less than 1"},
		{[]string{"--duration", "1ms"}, "--duration: 1ms is less than 10ms"},
		{[]string{"--keys", "0"}, "--keys: 0 is not 1 to 1000000"},
		{[]string{"--request", "none"}, `--request: unknown value "none"`},
		{[]string{"-o", "xml"}, `--output: unknown value "xml"`},
		{[]string{"--binary", "/nonexistent"}, "no tollgate to measure"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), c.args, strings.NewReader(""), &stdout, &stderr)
		if code != 1 || strings.Count(stderr.String(), c.want) != 1 {
			t.Errorf("%q: exit %d, %q, want %q once", c.args, code, &stderr, c.want)
		}
	}
}

// The commands of the page have flags that there are. They take minutes, so nothing more of them is
// tried here.
func TestPageNamesItsFlags(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("`(?:bin/tollgate-bench|make bench(-envoy)? ARGS=)([^`\n]+)`").FindAllStringSubmatch(string(page), -1)
	if len(commands) < 3 {
		t.Fatalf("%d commands", len(commands))
	}
	for _, c := range commands {
		args := strings.Fields(strings.Trim(c[2], "'"))
		if c[1] != "" {
			args = append([]string{"envoy"}, args...)
		}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append(args, "--help"), strings.NewReader(""), &stdout, &stderr); code != 0 {
			t.Errorf("%s: exit %d, %s", c[0], code, &stderr)
		}
	}
}

// guarding returns the lines that decide about the exit code.
func guarding(lines []bench.Line) (guards []string) {
	for _, l := range lines {
		if l.Guards {
			guards = append(guards, l.Case+" "+l.What)
		}
	}
	return guards
}

// Everything is measured, every answer was the right one (a wrong one ends the
// run). What is allocated is not judged, because the race detector allocates too: make
// bench-short does that.
func TestBenchShort(t *testing.T) {
	var r bench.Report
	if code := benchmark(t, &r, "--short", "--unjudged", "--features", "--keys", "300"); code != 0 {
		t.Fatalf("exit %d", code)
	}
	if guards := guarding(r.Lines); len(guards) != 0 {
		t.Errorf("%q guard", guards)
	}
	if len(r.Rows) != 8 || r.OpenLoop == nil || r.Rounds != 1 || len(r.Lines) < 12 {
		t.Fatalf("%+v", r)
	}
	for _, row := range r.Rows {
		for name, v := range map[string]float64{"cpu": row.CPU.Median, "ratio": row.Ratio.Median, "p50": row.P50.Median, "p99": row.P99.Median,
			"p99.9": row.P999.Median, "allocations": row.Allocations.Median, "bytes": row.Bytes.Median, "RSS": row.RSS.Median,
			"checks": row.Checks, "checks/s": row.PerSecond.Median} {
			if !(v > 0) || math.IsInf(v, 0) {
				t.Errorf("(%s) %s is %v", row.Case, name, v)
			}
		}
	}
	for _, f := range r.Features {
		if !(f.Ratio.Median > 0) || !(f.With.Median > 0) {
			t.Errorf("%+v", f)
		}
	}
	if len(r.Features) != 3 {
		t.Errorf("%d features", len(r.Features))
	}
	if exact := r.Rows[2]; exact.RedisCPU.Median <= 1 {
		t.Errorf("exact limits use %v µs of Redis CPU", exact.RedisCPU.Median)
	}
	if r.Rows[0].RedisCPU.Median != 0 {
		t.Errorf("always-allow uses Redis")
	}
	// grpc-go alone allocates less than the generated code on top of it.
	if floor, stock := r.Rows[7], r.Rows[0]; floor.Allocations.Median >= stock.Allocations.Median {
		t.Errorf("grpc-go alone makes %v allocations, always-allow %v", floor.Allocations.Median, stock.Allocations.Median)
	}
}

// The short form judges allocations and no time.
func TestWhatTheShortFormJudges(t *testing.T) {
	f := &benchFlags{Options: bench.Options{Rounds: 7, Duration: time.Minute, Keys: 10_000, Judge: true, JudgeMemory: true}}
	f.shorten()
	if f.Judge || !f.JudgeMemory || f.Rounds != 3 || f.Duration >= time.Second || f.Keys > 1000 {
		t.Errorf("%+v", f.Options)
	}
}

// A line that is missed by far is exit code 1: what no server can reach would be,
// so what is judged is the code against the report.
func TestBenchExitsByItsLines(t *testing.T) {
	var r bench.Report
	code := benchmark(t, &r, "--rounds", "1", "--duration", "100ms", "--keys", "100")
	if want := min(len(r.Fails()), 1); code != want {
		t.Errorf("exit %d, want %d: %+v", code, want, r.Lines)
	}
	if guards := guarding(r.Lines); len(guards) != 9 {
		t.Errorf("%q guard, want the ratios of b to g, what b allocates and its p99", guards)
	}
	if r.Rounds != 1 || r.OpenLoop.Rounds != 2 {
		t.Errorf("%d rounds, and %d at a fixed rate", r.Rounds, r.OpenLoop.Rounds)
	}
}

func TestBenchEnvoyShort(t *testing.T) {
	_, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	var r bench.EdgeReport
	if code := benchmark(t, &r, "envoy", "--short", "--keys", "100"); code != 0 {
		t.Fatalf("exit %d", code)
	}
	if len(r.Rows) < 5 || r.PerSecond <= 0 || len(r.Lines) == 0 {
		t.Fatalf("%+v", r)
	}
	for _, row := range r.Rows {
		asks := row.ID != "none" && row.ID != "own"
		if row.Envoy.Median <= 0 || (row.Server.Median > 0) != asks || row.P99.Median <= 0 {
			t.Errorf("%+v", row)
		}
	}
}

func TestBenchNeedsARealRedis(t *testing.T) {
	path, err := exec.LookPath("tollgate-bench")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "--short", "--binary", tollgatetest.Build(t))
	cmd.Env = append(os.Environ(), "PATH="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "redis-server is not on PATH") {
		t.Errorf("%v\n%s", err, out)
	}
}
