package grpcserver

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"tollgate/extauthz"
	"tollgate/policy"
)

// Reply lets tests encode the reply of any decision.
func Reply(d *policy.Decision) []byte {
	var e encoder
	return e.reply(nil, d)
}

// Decode lets tests decode any bytes.
func Decode(b []byte, set *policy.Set) (*policy.Request, error) {
	var d decoder
	r := &policy.Request{}
	return r, d.decode(checkRequest(), b, set, r)
}

// Decoder returns a decoder that uses its memory again.
func Decoder() func(b []byte, set *policy.Set) error {
	var d decoder
	var r policy.Request
	shape := checkRequest()
	return func(b []byte, set *policy.Set) error { return d.decode(shape, b, set, &r) }
}

// LogMessage is what a message of an access log says.
type LogMessage struct {
	Node, Name string
	Entries    []extauthz.AccessLogEntry
	Counts     extauthz.LogCounts
	Ended      time.Time
}

// DecodeLog lets tests decode any bytes as a message of a log with our name.
func DecodeLog(b []byte, set *policy.Set) (*LogMessage, error) {
	m := &LogMessage{}
	d := newLogDecoder(logsMessage(), func(e *extauthz.AccessLogEntry) { m.Entries = append(m.Entries, *e) })
	if err := d.identifier(b); err != nil {
		return nil, err
	}
	m.Node, m.Name = string(d.node), string(d.logName)
	err := d.entries(b, set, true)
	m.Counts, m.Ended = d.counts, d.ended
	return m, err
}

// LogDecoder returns a decoder that uses its memory again.
func LogDecoder(hand func(*extauthz.AccessLogEntry)) func(b []byte, set *policy.Set) error {
	d := newLogDecoder(logsMessage(), hand)
	return func(b []byte, set *policy.Set) error {
		if err := d.identifier(b); err != nil {
			return err
		}
		return d.entries(b, set, true)
	}
}

// Encoder returns an encoder that uses its memory again.
func Encoder() func(*policy.Decision) []byte {
	var e encoder
	var b []byte
	return func(d *policy.Decision) []byte {
		b = e.reply(b[:0], d)
		return b
	}
}

// Decide returns the decision about the bytes of a check request.
func Decide(t testing.TB, a *extauthz.Authorizer, req []byte) *policy.Decision {
	t.Helper()
	service := newCheckService(a)
	c := &call{}
	if err := service.Unmarshal(mem.BufferSlice{mem.SliceBuffer(req)}, c); err != nil {
		t.Fatal(err)
	}
	return service.authorizer.Decide(t.Context(), c.start, c.set, &c.request, &c.check)
}

// CheckBytes returns the method Check from bytes to bytes, without what gRPC does
// around it. The reply is void at the next call.
func CheckBytes(t testing.TB, a *extauthz.Authorizer) func([]byte) []byte {
	t.Helper()
	return CheckBytesIn(t, context.Background(), a)
}

// CheckBytesIn is CheckBytes of calls with a context.
func CheckBytesIn(t testing.TB, ctx context.Context, a *extauthz.Authorizer) func([]byte) []byte {
	t.Helper()
	service := newCheckService(a)
	var data mem.BufferSlice
	decode := func(c any) error { return service.Unmarshal(data, c) }
	return func(b []byte) []byte {
		data = append(data[:0], mem.SliceBuffer(b))
		c, err := handleCheck(service, ctx, decode, nil)
		if err != nil {
			t.Fatal(err)
		}
		reply := c.(*call).reply
		service.release(c.(*call))
		mem.DefaultBufferPool().Put(reply)
		return *reply
	}
}

// CheckDirectly returns the Check method itself, for what no client can send or
// see: a finished context, and many calls in little time.
func CheckDirectly(t testing.TB, a *extauthz.Authorizer) func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	t.Helper()
	s := newCheckService(a)
	return func(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := handleCheck(s, ctx, func(c any) error { return s.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, c) }, nil)
		if err != nil {
			return nil, err
		}
		data, err := s.Marshal(reply)
		if err != nil {
			t.Fatal(err)
		}
		defer data.Free()
		resp := &authv3.CheckResponse{}
		if err := proto.Unmarshal(data.Materialize(), resp); err != nil {
			t.Fatal(err)
		}
		return resp, nil
	}
}

// HeldAfterCheck returns the texts that a call holds, the memory of its lists
// included, when it waits for the next one.
func HeldAfterCheck(t testing.TB, a *extauthz.Authorizer, req []byte, textsIn func(reflect.Value) []string) []string {
	t.Helper()
	service := newCheckService(a)
	var held *call
	service.calls = &sync.Pool{New: func() any { held = &call{}; return held }}
	c, err := handleCheck(service, t.Context(), func(c any) error { return service.Unmarshal(mem.BufferSlice{mem.SliceBuffer(req)}, c) }, nil)
	if err == nil {
		data, _ := service.Marshal(c)
		data.Free()
	}
	held.encoder = encoder{} // bytes of the answer
	return textsIn(reflect.ValueOf(held).Elem())
}

// LogIntervals returns what measures the intervals of a stream that was opened then, and how many
// requests are followed.
func LogIntervals(opened time.Time) (of func(*extauthz.AccessLogEntry, time.Time) (time.Duration, bool), followed func() int64) {
	var all atomic.Int64
	l := &logIntervals{opened: opened, all: &all}
	return l.of, all.Load
}
