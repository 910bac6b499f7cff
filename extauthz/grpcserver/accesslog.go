package grpcserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"tollgate/extauthz"
)

const (
	// AccessLogName is the log_name of the access logs that are read.
	AccessLogName = "tollgate"
	// An Envoy opens a stream for each of its workers and listeners. One takes about 20 KB.
	maxLogStreams = 4096
	// logStreamAge is when a stream ends, so that the logs too spread over new replicas. Envoy
	// keeps a stream for as long as it lasts, also on a connection that was told to go away, and
	// opens another one with its next message, on a connection that is to stay.
	logStreamAge = 10 * time.Minute
	// logPatience is how long a stream that is to end waits for a message. It is longer than
	// Envoy's default buffer_flush_interval.
	logPatience = 1200 * time.Millisecond
	// calmPatience is how long one with messages waits for a good moment. On a machine that is
	// overloaded few are: in a second and a bit there was none, and each end lost messages.
	calmPatience = 6 * time.Second
	// calmLag is how much later than the fastest one a message may have come to be a good moment.
	calmLag = 10 * time.Millisecond
)

// logService receives access logs (envoy.service.accesslog.v3).
type logService struct {
	authorizer *extauthz.Authorizer
	shape      *shape
	senders    *logSenders
	age        time.Duration
	stopping   <-chan struct{} // closed when streams have to end
	open       atomic.Int64
	followed   atomic.Int64   // requests that go on, of all streams
	reading    sync.WaitGroup // streams that may still hand entries on
	// turns are for who reads a message: half of the processors are left to checks.
	turns chan struct{}
}

func newLogService(a *extauthz.Authorizer, age time.Duration, stopping <-chan struct{}) *logService {
	return &logService{
		authorizer: a, shape: logsMessage(), senders: newLogSenders(), age: age, stopping: stopping,
		turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
}

// desc is what gRPC calls in the place of the generated code.
func (s *logService) desc() *grpc.ServiceDesc {
	generated := accesslogv3.AccessLogService_ServiceDesc
	return &grpc.ServiceDesc{
		ServiceName: generated.ServiceName,
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "StreamAccessLogs", Handler: s.handle, ClientStreams: true}},
		Metadata:    generated.Metadata,
	}
}

// handle receives one stream, and ends it when it is old or the server stops. What Envoy sends
// before it has noticed the end is lost.
func (s *logService) handle(_ any, stream grpc.ServerStream) error {
	defer s.open.Add(-1)
	if s.open.Add(1) > maxLogStreams {
		s.authorizer.Trouble(stream.Context(), "an access log was refused: too many streams are open", slog.Int("limit", maxLogStreams))
		return status.Error(codes.ResourceExhausted, "tollgate: too many access logs")
	}
	s.authorizer.Metrics().LogStreams(1)
	defer s.authorizer.Metrics().LogStreams(-1)

	l := newLogStream(s, stream)
	read := make(chan error, 1)
	s.reading.Go(func() { read <- l.read() })
	var err error
	select {
	case err = <-read:
	case <-s.stopping:
		err = l.lastMoment(read)
	}
	if err == nil {
		err = stream.SendMsg(&accesslogv3.StreamAccessLogsResponse{}) // the end by gRPC's rules
	}
	return err
}

// lastMoment waits until the stream has read its last message: one without any has no more to come,
// one with others ends soon.
func (l *logStream) lastMoment(read <-chan error) error {
	for began, latest := time.Now(), l.latest.Load(); ; {
		select {
		case err := <-read:
			return err
		case <-time.After(logPatience):
		}
		more := l.latest.Load()
		if more == latest || time.Since(began) >= calmPatience {
			return nil
		}
		latest = more
	}
}

// logStream is one stream of entries, and the message that gRPC reads into.
type logStream struct {
	*logService
	stream  grpc.ServerStream
	opened  time.Time
	address string // of the peer, without its port
	decoder *logDecoder
	sender  *logSender // nil until there is a message
	ours    bool       // the log has our name
	broken  bool       // a message could not be read

	now       time.Time // when the message that is read arrived
	intervals logIntervals

	latest      atomic.Int64  // when the latest message was read, Unix ns
	due         time.Time     // when the stream was to end; zero while it is not
	lag, minLag time.Duration // of the latest message, and of the fastest one
}

func newLogStream(s *logService, stream grpc.ServerStream) *logStream {
	l := &logStream{logService: s, stream: stream, opened: time.Now(), minLag: math.MaxInt64}
	l.intervals = logIntervals{opened: l.opened, all: &s.followed}
	l.decoder = newLogDecoder(s.shape, l.observed)
	if p, ok := peer.FromContext(stream.Context()); ok {
		l.address = p.Addr.String()
		if host, _, err := net.SplitHostPort(l.address); err == nil {
			l.address = host
		}
	}
	return l
}

// read reads messages until it is time to end, or the client does.
func (l *logStream) read() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(l.authorizer, accesslogv3.AccessLogService_StreamAccessLogs_FullMethodName, p)
		}
		l.sender.closed()
		l.intervals.end()
	}()
	for {
		switch err := l.stream.RecvMsg(l); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			l.unread(err)
			return err
		case l.over():
			return nil
		}
	}
}

// over reports whether to end the stream now, after a message. Envoy sends the next one after
// buffer_flush_interval, so the moment is good unless this one was long on its way: then the end
// may be so as well.
func (l *logStream) over() bool {
	now := time.Now()
	if l.due.IsZero() {
		select {
		case <-l.stopping:
		default:
			if now.Sub(l.opened) < l.age {
				return false
			}
		}
		l.due = now
	}
	return l.lag-l.minLag <= calmLag || now.Sub(l.due) >= calmPatience
}

// unread counts a message that could not be read, if that is why a stream ends.
func (l *logStream) unread(err error) {
	if !l.broken && status.Code(err) != codes.ResourceExhausted {
		return // the connection ended
	}
	counts := extauthz.LogCounts{extauthz.LogMalformed: 1}
	l.decoder.ended = time.Time{}
	l.counted(&counts, time.Now())
	l.authorizer.Trouble(context.Background(), "an access log sent a message that could not be read", slog.String("peer", l.address), slog.Any("error", err))
}

// receive hands on the entries of a message, of which nothing is kept.
func (l *logStream) receive(data mem.BufferSlice) error {
	l.turns <- struct{}{}
	defer func() { <-l.turns }()
	if len(data) == 1 {
		return l.decode(data[0].ReadOnlyData())
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return l.decode(whole.ReadOnlyData())
}

func (l *logStream) decode(b []byte) error {
	d, now := l.decoder, time.Now()
	l.now = now
	l.latest.Store(now.UnixNano())
	if err := d.identifier(b); err != nil {
		l.broken = true
		return err
	}
	if l.sender == nil { // Envoy says who it is in its first message
		l.ours = string(d.logName) == AccessLogName
		l.sender = l.senders.opened(d.node, d.logName, l.address, now)
	}
	err := d.entries(b, l.authorizer.Policy(), l.ours)
	l.broken = err != nil
	l.counted(&d.counts, now)
	return err
}

// observed hands on an entry.
func (l *logStream) observed(e *extauthz.AccessLogEntry) {
	if interval, ok := l.intervals.of(e, l.now); ok && l.authorizer.Policy().API(e.API) != nil {
		l.sender.silent(e.API, interval, l.now)
	}
	l.authorizer.Observed(e)
}

// counted notes what a message had.
func (l *logStream) counted(counts *extauthz.LogCounts, now time.Time) {
	lag := time.Duration(-1)
	if ended := l.decoder.ended; !ended.IsZero() {
		l.lag = now.Sub(ended) // by two clocks: it may be less than 0
		l.minLag = min(l.minLag, l.lag)
		lag = max(l.lag, 0)
	}
	l.authorizer.Metrics().LogRead(counts, lag)
	l.sender.received(counts, now, lag)
}
