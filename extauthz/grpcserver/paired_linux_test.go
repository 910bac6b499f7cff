package grpcserver_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
	"tollgate/policy/errorlog"
	"tollgate/policy/limits"
	"tollgate/policy/usage"
)

// spentAtOnce is a store whose limits are spent.
type spentAtOnce struct{ atOnce }

func (s spentAtOnce) Try(sp *limits.Spend, into *limits.Result) bool {
	s.atOnce.Try(sp, into)
	into.Allowed = false
	for i := range into.States {
		into.States[i].Spent = 1 << 40
	}
	return true
}

// pair is what one of two servers does beside what both do, with checks that are denied or not.
type pair struct {
	denied bool
	change func(*extauthz.Config, *chores)
}

// pairs are what servers are compared with and without.
func pairs() map[string]pair {
	return map[string]pair{
		"nothing": {false, func(*extauthz.Config, *chores) {}}, // the noise
		"usage, an allowed check": {false, func(c *extauthz.Config, each *chores) {
			counter, batch := usage.NewCounter(0, c.Policies.FindRoute), &usage.Batch{}
			c.Counts = counter
			each.add(func() {
				counter.Take(batch, -1, time.Now())
				counter.Release(batch)
			})
		}},
		"the error log, a denied check": {true, func(c *extauthz.Config, each *chores) {
			c.Errors = errorlog.New(c.Policies.FindRoute, time.Now)
			each.add(func() { c.Errors.Take(nil) })
		}},
		"traces that are not sampled": {false, func(c *extauthz.Config, _ *chores) { c.Tracing, _ = extauthztest.NewTracing(false) }},
	}
}

// chores are what a server does each second.
type chores struct{ all []func() }

func (c *chores) add(f func()) { c.all = append(c.all, f) }

// pairVariable has the benchmark be the two servers: it holds the pair's name and their folder.
const pairVariable = "TOLLGATE_PAIR"

// servePair serves without and with on two sockets, until standard input ends.
func servePair(b *testing.B, name, dir string) {
	file, grant, _ := pictify(b)
	pair, each := pairs()[name], &chores{}
	var store extauthztest.Store = atOnce{grant}
	if pair.denied {
		store = spentAtOnce{atOnce{grant}}
	}
	var servers []*grpcserver.Server
	for i, change := range []func(*extauthz.Config){func(*extauthz.Config) {}, func(c *extauthz.Config) { pair.change(c, each) }} {
		a := extauthztest.AuthorizerOf(b, file, store, func(c *extauthz.Config) { c.Counts, c.Decisions = nil, extauthz.LogNone }, change)
		l, err := net.Listen("unix", filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			b.Fatal(err)
		}
		s := grpcserver.New(a, grpcserver.Config{})
		go func() { _ = s.Serve(l) }()
		servers = append(servers, s)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for serving := true; serving; {
		select {
		case <-tick.C:
			for _, do := range each.all {
				do()
			}
		case <-ended:
			serving = false
		}
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for _, s := range servers {
		s.Shutdown(over)
	}
}

// cpuOf returns the CPU time of a process (clock_getcpuclockid(3)).
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// asIs is a codec of bytes.
type asIs struct{}

func (asIs) Name() string { return "proto" }

func (asIs) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (asIs) Unmarshal(data mem.BufferSlice, v any) error {
	if reply, ok := v.(*[]byte); ok {
		*reply = data.Materialize()
	}
	return nil
}

// BenchmarkPaired is the CPU time of a check in a server that does something beside that of one
// which does not. Both are in one process of their own, with the same memory and collector, and are
// asked in turn, some thousand checks each, so that what disturbs one disturbs the other. A ratio
// is of two neighbours; shown is the median of -benchtime 100x such pairs.
func BenchmarkPaired(b *testing.B) {
	if dir := os.Getenv(pairVariable); dir != "" {
		name, err := os.ReadFile(filepath.Join(dir, "name"))
		if err != nil {
			b.Fatal(err)
		}
		servePair(b, string(name), dir)
		return
	}
	for name, pair := range pairs() {
		b.Run(name, func(b *testing.B) { comparePair(b, name, pair.denied) })
	}
}

func comparePair(b *testing.B, name string, denied bool) {
	dir, err := os.MkdirTemp("", "pair") // short: a socket's path is
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkPaired$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), pairVariable+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	_, _, request := pictify(b)
	callers := []*pairCallers{dialPair(b, dir, 0, request), dialPair(b, dir, 1, request)}
	for _, c := range callers {
		c.ask(b, 20_000)
		if got := c.decision(b); (got.GetDeniedResponse().GetStatus().GetCode() == 429) != denied || (got.GetStatus().GetCode() == 0) == denied {
			b.Fatalf("%v", got)
		}
	}
	var ratios, added, base []float64
	b.ResetTimer()
	for round := range b.N {
		var cpu [2]time.Duration
		for turn := range 2 {
			i := (turn + round) % 2
			before := cpuOf(b, cmd.Process.Pid)
			callers[i].ask(b, pairChecks)
			cpu[i] = cpuOf(b, cmd.Process.Pid) - before
		}
		ratios = append(ratios, float64(cpu[1])/float64(cpu[0]))
		added = append(added, float64(cpu[1]-cpu[0])/pairChecks)
		base = append(base, float64(cpu[0])/pairChecks)
	}
	b.StopTimer()
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(added), "added-ns/check")
	b.ReportMetric(median(base), "cpu-ns/check")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

const (
	pairChecks = 4000 // of each in a round
	pairAtOnce = 32   // at a time
)

// pairCallers ask one of the two servers.
type pairCallers struct {
	conns   []*grpc.ClientConn
	request []byte
}

func dialPair(b *testing.B, dir string, i int, request []byte) *pairCallers {
	b.Helper()
	c := &pairCallers{request: request}
	for range 4 {
		conn, err := grpc.NewClient("unix:"+filepath.Join(dir, strconv.Itoa(i)), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(asIs{}), grpc.WaitForReady(true)))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		c.conns = append(c.conns, conn)
	}
	return c
}

// ask makes n checks, in a trace that Envoy does not sample.
func (c *pairCallers) ask(b *testing.B, n int) {
	ctx := unsampledTrace(b)
	var work sync.WaitGroup
	for i := range pairAtOnce {
		work.Go(func() {
			for range n / pairAtOnce {
				if err := c.conns[i%len(c.conns)].Invoke(ctx, authv3.Authorization_Check_FullMethodName, c.request, nil); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
}

func unsampledTrace(b *testing.B) context.Context {
	return metadata.AppendToOutgoingContext(b.Context(), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
}

// decision is what the server answers.
func (c *pairCallers) decision(b *testing.B) *authv3.CheckResponse {
	b.Helper()
	var reply []byte
	if err := c.conns[0].Invoke(unsampledTrace(b), authv3.Authorization_Check_FullMethodName, c.request, &reply); err != nil {
		b.Fatal(err)
	}
	return decodeReply(b, reply)
}
