package grpcserver_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
	"tollgate/policy/errorlog"
	"tollgate/policy/usage"
)

// seen counts entries, and tells of every so many of them.
type seen struct {
	atomic.Int64
	each int64
	told chan struct{}
}

// Observed implements extauthz.Observer.
func (s *seen) Observed(*extauthz.AccessLogEntry) {
	if s.Add(1)%s.each == 0 {
		s.told <- struct{}{}
	}
}

// loggedAuthorizer counts usage and samples errors, as a server does. each is what it does every
// second.
func loggedAuthorizer(b *testing.B, entries int) (a *extauthz.Authorizer, told *seen, each func()) {
	told = &seen{each: int64(entries), told: make(chan struct{}, 1)}
	a = extauthztest.AuthorizerOf(b, extauthztest.SmallFile(), extauthztest.Allowing(), func(c *extauthz.Config) {
		c.Observer, c.Errors = told, errorlog.New(c.Policies.FindRoute, time.Now)
		counter, batch := usage.NewCounter(0, c.Policies.FindRoute), &usage.Batch{}
		c.Counts = counter
		each = func() {
			c.Errors.Take(nil)
			counter.Take(batch, -1, time.Now())
			counter.Release(batch)
		}
	})
	return a, told, each
}

// loggedMessages are messages as a real Envoy sends them at 640 requests a second, 32 entries each,
// about 10,000 keys by Zipf's law, one in a hundred with a 503.
func loggedMessages(b *testing.B) (all []*accesslogv3.StreamAccessLogsMessage, entries int) {
	b.Helper()
	var recorded accesslogv3.StreamAccessLogsMessage
	if err := proto.Unmarshal(recordedLogs(b)[0], &recorded); err != nil { // of an allowed request
		b.Fatal(err)
	}
	keys := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 9999)
	now := timestamppb.Now()
	const messages, each = 500, 32
	for range messages {
		var list []*datav3.HTTPAccessLogEntry
		for i := range each {
			e := proto.CloneOf(recorded.GetHttpLogs().GetLogEntry()[0])
			e.CommonProperties.StartTime = now
			fields := e.CommonProperties.GetMetadata().GetFilterMetadata()["envoy.filters.http.ext_authz"].GetFields()
			for name, value := range map[string]string{"api": "small", "route": "item", "team": "team_s", "plan": "basic", "key_id": fmt.Sprintf("key_%016x", keys.Uint64())} {
				fields[name] = structpb.NewStringValue(value)
			}
			if i == 7 && len(all)%3 == 0 {
				e.Response.ResponseCode.Value = 503
			}
			list = append(list, e)
		}
		all = append(all, &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: list}}})
	}
	all[0].Identifier = &accesslogv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "edge"}, LogName: grpcserver.AccessLogName}
	return all, messages * each
}

// BenchmarkAccessLog is how many entries of an access log a second of one core takes, by its CPU
// time: decoded and added to what is counted, and what is counted taken, as every second; and the
// same with the stream that brings them and its sender. Asked are 50,000.
func BenchmarkAccessLog(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	messages, entries := loggedMessages(b)
	perSecond := func(b *testing.B, told *seen, began time.Duration) {
		b.Helper()
		b.StopTimer()
		if got := told.Load(); got != int64(b.N)*int64(entries) {
			b.Fatalf("told of %d entries of %d", got, b.N*entries)
		}
		b.ReportMetric(float64(b.N)*float64(entries)/(cpuOf(b, os.Getpid())-began).Seconds(), "entries/cpu-s")
	}
	b.Run("decoded and added", func(b *testing.B) {
		a, told, each := loggedAuthorizer(b, entries)
		decode := grpcserver.LogDecoder(a.Observed)
		var data [][]byte
		for _, m := range messages {
			bytes, err := proto.Marshal(m)
			if err != nil {
				b.Fatal(err)
			}
			data = append(data, bytes)
		}
		b.ReportAllocs()
		b.ResetTimer()
		began := cpuOf(b, os.Getpid())
		for range b.N {
			for _, bytes := range data {
				if err := decode(bytes, a.Policy()); err != nil {
					b.Fatal(err)
				}
			}
			<-told.told
			each() // after 16,000 entries, oftener than every second
		}
		perSecond(b, told, began)
	})
	b.Run("received", func(b *testing.B) {
		a, told, each := loggedAuthorizer(b, entries)
		stream := logStreamTo(b, a)
		var ready []*grpc.PreparedMsg
		for _, m := range messages {
			p := &grpc.PreparedMsg{}
			if err := p.Encode(stream, m); err != nil {
				b.Fatal(err)
			}
			ready = append(ready, p)
		}
		b.ResetTimer()
		began := cpuOf(b, os.Getpid())
		for range b.N {
			for _, m := range ready {
				if err := stream.SendMsg(m); err != nil {
					b.Fatal(err)
				}
			}
			<-told.told
			each()
		}
		perSecond(b, told, began)
	})
}

// logStreamTo opens an access log to a server.
func logStreamTo(b *testing.B, a *extauthz.Authorizer) grpc.ClientStream {
	b.Helper()
	socket := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	s := grpcserver.New(a, grpcserver.Config{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), extauthztest.Limit)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			b.Error(err)
		}
	})
	stream, err := accesslogv3.NewAccessLogServiceClient(conn).StreamAccessLogs(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return stream
}
