package grpcserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
)

// observer counts what it is told, and does something first.
type observer struct {
	mu    sync.Mutex
	first func(*extauthz.AccessLogEntry)
	told  []extauthz.AccessLogEntry
}

// Observed implements extauthz.Observer.
func (o *observer) Observed(e *extauthz.AccessLogEntry) {
	if o.first != nil {
		o.first(e)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, *e)
}

func (o *observer) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.told)
}

// observing is a stack whose access logs an observer is told of.
func observing(t *testing.T, o *observer) *extauthztest.Stack {
	t.Helper()
	return extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = o }, extauthztest.SmallFile())
}

// logStream opens a stream of an access log.
func logStream(t *testing.T, s *extauthztest.Stack, options ...grpc.CallOption) accesslogv3.AccessLogService_StreamAccessLogsClient {
	t.Helper()
	stream, err := accesslogv3.NewAccessLogServiceClient(s.Dial(t)).StreamAccessLogs(extauthztest.Within(t), options...)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// message is a message of a log with our name.
func message(node string, entries ...*datav3.HTTPAccessLogEntry) *accesslogv3.StreamAccessLogsMessage {
	m := &accesslogv3.StreamAccessLogsMessage{
		LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}},
	}
	if node != "" {
		m.Identifier = &accesslogv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: node}, LogName: grpcserver.AccessLogName}
	}
	return m
}

// logCounts waits until there are entries of these kinds.
func logCounts(t *testing.T, s *extauthztest.Stack, want string) {
	t.Helper()
	const series = "tollgate_access_log_entries_total{kind="
	got := func() string {
		var kinds []string
		for line := range strings.Lines(extauthztest.MetricsOf(s.Registry)) {
			if kind, ok := strings.CutPrefix(line, series); ok && !strings.HasSuffix(kind, " 0\n") {
				kinds = append(kinds, strings.NewReplacer(`"`, "", "} ", "=", "\n", "").Replace(kind))
			}
		}
		return strings.Join(kinds, ", ")
	}
	extauthztest.Eventually(t, want, func() bool {
		if got := got(); got != want {
			return false
		}
		return true
	})
}

func TestWhatIsCountedOfAnAccessLog(t *testing.T) {
	o := &observer{}
	s := observing(t, o)
	stream := logStream(t, s)
	send := func(m *accesslogv3.StreamAccessLogsMessage) {
		t.Helper()
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	send(message("edge", variants(t)...))
	send(&accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: &accesslogv3.StreamAccessLogsMessage_TCPAccessLogEntries{
		LogEntry: []*datav3.TCPAccessLogEntry{{}, {}}}}})
	send(&accesslogv3.StreamAccessLogsMessage{})
	// Of the 15 types one is the end, one goes on and one is of an Envoy that does not say.
	logCounts(t, s, "ended=8, foreign=5, other_type=12, periodic=2, tcp=2")
	if n := o.count(); n != 8+2+3 { // two of the foreign ones have no request id
		t.Errorf("told of %d", n)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Errorf("the end: %v", err)
	}
	extauthztest.Eventually(t, "no stream", func() bool { return s.GRPC.AccessLogs()[0].Streams == 0 })
	state := s.GRPC.AccessLogs()[0]
	if state.Node != "edge" || state.Opened != 1 || state.Entries[extauthz.LogTCP] != 2 {
		t.Errorf("%+v", state)
	}
	text, err := json.Marshal(state)
	if err != nil || !strings.Contains(string(text), `"ended":8`) || !strings.Contains(string(text), `"log_name":"tollgate"`) {
		t.Errorf("%s, %v", text, err)
	}
}

// A log that begins without a name is none of ours.
func TestLogWithoutNameIsNotBelieved(t *testing.T) {
	o := &observer{}
	s := observing(t, o)
	stream := logStream(t, s)
	for _, m := range []*accesslogv3.StreamAccessLogsMessage{message("", ended(t)), message("too late", ended(t))} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	logCounts(t, s, "other_log=2")
	if o.count() > 0 {
		t.Errorf("%+v", o.told)
	}
}

// A message that is none ends its stream, and what came before it counts.
func TestBrokenMessageEndsTheStream(t *testing.T) {
	o := &observer{}
	s := observing(t, o)
	for i := range 6 {
		stream, err := s.Dial(t).NewStream(extauthztest.Within(t), &accesslogv3.AccessLogService_ServiceDesc.Streams[0],
			accesslogv3.AccessLogService_StreamAccessLogs_FullMethodName, grpc.ForceCodecV2(anyBytes{}))
		if err != nil {
			t.Fatal(err)
		}
		good, broken := logOf(t, ended(t)), append(logOf(t, ended(t)), nested([]byte{0x0a, 5}, 2)...)
		if i%3 == 0 {
			broken = nested([]byte("\xff"), 2, 1, 3, 5)
		}
		for _, b := range [][]byte{good, broken, good} {
			if err := stream.SendMsg(&b); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if err := stream.RecvMsg(&[]byte{}); status.Code(err) != codes.Internal {
			t.Fatalf("%v", err)
		}
	}
	logCounts(t, s, "ended=10, malformed=6")
	extauthztest.Eventually(t, "the log to tell of each", func() bool {
		return strings.Count(s.Log.String(), "sent a message that could not be read") == 6
	})
	if strings.Contains(s.Log.String(), "sm_secret") {
		t.Errorf("%s", s.Log)
	}
	for _, state := range s.GRPC.AccessLogs() {
		if state.Entries[extauthz.LogMalformed] != 6 || state.Opened != 6 {
			t.Errorf("%+v", state)
		}
	}
}

func TestMessageOverTheLimitEndsTheStream(t *testing.T) {
	s := observing(t, &observer{})
	stream := logStream(t, s, grpc.MaxCallSendMsgSize(64<<20))
	large := ended(t)
	large.Request.UserAgent = strings.Repeat("a", 10_000_000)
	if err := stream.Send(message("edge", large)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&accesslogv3.StreamAccessLogsResponse{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
	logCounts(t, s, "malformed=1")
}

// A bug in whoever is told ends one stream, not the server.
func TestPanicOfAnObserverEndsTheStream(t *testing.T) {
	o := &observer{first: func(*extauthz.AccessLogEntry) { panic("sm_secret") }}
	s := observing(t, o)
	stream := logStream(t, s)
	if err := stream.Send(message("edge", ended(t))); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&accesslogv3.StreamAccessLogsResponse{}); status.Code(err) != codes.Internal {
		t.Errorf("%v", err)
	}
	if !strings.Contains(extauthztest.MetricsOf(s.Registry), "\ntollgate_panics_total 1\n") || strings.Contains(s.Log.String(), "sm_secret") {
		t.Error(s.Log)
	}
	if resp, err := authv3.NewAuthorizationClient(s.Dial(t)).Check(extauthztest.Within(t), extauthztest.Get("/open", nil)); err != nil || resp.GetStatus().GetCode() != 0 {
		t.Errorf("a check: %v, %v", resp, err)
	}
	stream = logStream(t, s)
	o.mu.Lock()
	o.first = nil
	o.mu.Unlock()
	if err := stream.Send(message("edge", ended(t))); err != nil {
		t.Fatal(err)
	}
	extauthztest.Eventually(t, "another stream", func() bool { return o.count() == 1 })
}

// What is said of Envoys is bounded, whatever they say.
func TestStatesOfAccessLogsAreBounded(t *testing.T) {
	s := observing(t, &observer{})
	stream := logStream(t, s)
	if err := stream.Send(message(strings.Repeat("n", 100_000))); err != nil {
		t.Fatal(err)
	}
	extauthztest.Eventually(t, "the state", func() bool { return len(s.GRPC.AccessLogs()) == 1 })
	if got := s.GRPC.AccessLogs()[0].Node; got != "" {
		t.Errorf("a node of %d bytes", len(got))
	}
	conn := s.Dial(t)
	for i := range 1100 {
		stream, err := accesslogv3.NewAccessLogServiceClient(conn).StreamAccessLogs(extauthztest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(message(fmt.Sprintf("node %d", i), ended(t))); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.GRPC.AccessLogs()); n != 1024 {
		t.Errorf("%d states", n)
	}
}

// An Envoy that is idle does not hold up the end, and one that is not is waited for.
func TestLogsEndWithTheServer(t *testing.T) {
	o := &observer{}
	s := observing(t, o)
	idle, busy := logStream(t, s), logStream(t, s)
	if err := busy.Send(message("edge", ended(t))); err != nil {
		t.Fatal(err)
	}
	extauthztest.Eventually(t, "the first entry", func() bool { return o.count() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), extauthztest.Limit)
	defer cancel()
	down := make(chan bool)
	go func() {
		s.GRPC.Shutdown(ctx)
		close(down)
	}()
	sent := 1
	isDown := func() bool {
		select {
		case <-down:
			return true
		default:
			return false
		}
	}
	for busy.Send(message("", ended(t))) == nil { // until the server has ended it
		sent++
		extauthztest.Eventually(t, "the entry, or the end", func() bool { return o.count() == sent || isDown() })
	}
	<-down
	if ctx.Err() != nil {
		t.Error("the end waited for the streams")
	}
	if err := idle.RecvMsg(&accesslogv3.StreamAccessLogsResponse{}); err != nil {
		t.Errorf("the end of the idle one: %v", err)
	}
	if n := o.count(); n < 2 {
		t.Errorf("%d entries of %d", n, sent)
	}
}

// The decoder makes no memory for an entry but room for texts, a piece for many of them.
func TestAllocationsOfAnEntry(t *testing.T) {
	set := fuzzSet(t)
	var entries []*datav3.HTTPAccessLogEntry
	for range 100 {
		entries = append(entries, ended(t))
	}
	b, n := logOf(t, entries...), 0
	decode := grpcserver.LogDecoder(func(*extauthz.AccessLogEntry) { n++ })
	perMessage := testing.AllocsPerRun(100, func() {
		if err := decode(b, set); err != nil {
			t.Fatal(err)
		}
	})
	if n < 100*100 || perMessage > 5 && !grpcserver.Race {
		t.Errorf("%v allocations for 100 entries", perMessage)
	}
}

func BenchmarkDecodeLog(b *testing.B) {
	set := fuzzSet(b)
	recorded := recordedLogs(b)[0] // of an allowed request
	var m accesslogv3.StreamAccessLogsMessage
	if err := proto.Unmarshal(recorded, &m); err != nil {
		b.Fatal(err)
	}
	for range 5 { // 32 entries, as in 50 ms at 640 a second
		m.GetHttpLogs().LogEntry = append(m.GetHttpLogs().LogEntry, m.GetHttpLogs().LogEntry...)
	}
	message, err := proto.Marshal(&m)
	if err != nil {
		b.Fatal(err)
	}
	entries := len(m.GetHttpLogs().GetLogEntry())
	perEntry := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*entries), "ns/entry")
	}
	b.Run("wire", func(b *testing.B) {
		told := 0
		decode := grpcserver.LogDecoder(func(*extauthz.AccessLogEntry) { told++ })
		b.ReportAllocs()
		b.SetBytes(int64(len(message)))
		for b.Loop() {
			if err := decode(message, set); err != nil {
				b.Fatal(err)
			}
		}
		perEntry(b)
		if told != b.N*entries {
			b.Fatalf("told of %d", told)
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(message)))
		for b.Loop() {
			var m accesslogv3.StreamAccessLogsMessage
			if err := proto.Unmarshal(message, &m); err != nil {
				b.Fatal(err)
			}
		}
		perEntry(b)
	})
}
