package grpcserver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"tollgate/extauthz"
	"tollgate/policy"
)

// call is one Check call, from the bytes of its request to those of its reply. Calls
// are used again, so that one costs no more memory than its texts.
type call struct {
	start   time.Time
	set     *policy.Set // in force when the request was read
	request policy.Request
	check   policy.Check
	reply   *[]byte // of replies, once there is one

	decoder decoder
	encoder encoder
}

// replyRoom holds nearly every reply. Buffers of at most 1 KiB are not used again by
// gRPC (mem.IsBelowBufferPoolingThreshold).
const replyRoom = 4 << 10

// answer encodes the reply of a decision.
func (c *call) answer(d *policy.Decision) {
	c.reply = mem.DefaultBufferPool().Get(replyRoom)
	*c.reply = c.encoder.reply((*c.reply)[:0], d)
}

// service is what gRPC calls in the place of the generated code: the same service
// and method, whose messages are calls.
func service() *grpc.ServiceDesc {
	generated := authv3.Authorization_ServiceDesc
	return &grpc.ServiceDesc{
		ServiceName: generated.ServiceName,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: handleCheck}},
		Metadata:    generated.Metadata,
	}
}

// handleCheck is the handler of the method. Interceptors, which a call through the
// generated code would pass, are not called: there is none for it.
func handleCheck(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (_ any, err error) {
	s := server.(*checkService)
	c := s.calls.Get().(*call)
	// A call that met a panic is not used again.
	defer s.recover(&err)
	if err = decode(c); err == nil {
		err = s.check(ctx, c)
	} else {
		s.unread(ctx, err)
	}
	if err != nil {
		s.release(c)
		return nil, err
	}
	return c, nil // released when it has been encoded
}

// check answers one request. What cannot be answered is an RPC error, which Envoy
// treats by its failure_mode_allow and status_on_error; an empty CheckResponse
// would allow the request.
func (s *checkService) check(ctx context.Context, c *call) error {
	traced := ctx
	if t := s.authorizer.Tracing(); t != nil {
		traced = t.Continue(ctx, incoming(ctx, "traceparent"), func() string { return incoming(ctx, "tracestate") })
	}
	d := s.authorizer.Decide(traced, c.start, c.set, &c.request, &c.check)
	// Envoy has gone, or its time is up: an answer now could reach it by chance.
	if err := ctx.Err(); err != nil {
		s.authorizer.Abandon(&c.check)
		return status.FromContextError(err).Err()
	}
	if d.FailRPC {
		return status.Error(codes.Unavailable, "tollgate: undecided")
	}
	c.answer(d)
	return nil
}

// incoming returns what a call's metadata says first under a name, "" for nothing. Envoy names its
// own span there; a header of that name in the request is the client's word.
func incoming(ctx context.Context, name string) string {
	if values := grpcmetadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// checkService is the server that gRPC hands to the handler, and the codec of its
// messages.
type checkService struct {
	authorizer *extauthz.Authorizer
	calls      *sync.Pool // of *call
	shape      *shape
	others     encoding.CodecV2 // of the other services of the server
	refusals   rate.Sometimes   // bounds the lines about requests that could not be read
}

func newCheckService(a *extauthz.Authorizer) *checkService {
	return &checkService{
		authorizer: a,
		calls:      &sync.Pool{New: func() any { return &call{} }},
		shape:      checkRequest(),
		others:     encoding.GetCodecV2(proto.Name),
		refusals:   rate.Sometimes{Interval: time.Second},
	}
}

// unread counts a check request that could not be read: Envoy takes the error for a
// failure of ours, so with failure_mode_allow the request passes.
func (s *checkService) unread(ctx context.Context, err error) {
	why, message := "malformed", "a check request could not be read"
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded:
		return // nobody waits for it
	case codes.ResourceExhausted:
		why, message = "too_large", "a check request is larger than the limit: Envoy must not send request bodies (with_request_body)"
	}
	s.authorizer.Metrics().GRPCRefused(why)
	s.refusals.Do(func() {
		s.authorizer.Trouble(ctx, message, slog.Int("limit_bytes", maxCheckRequest), slog.Any("error", err))
	})
}

// release puts a call back for the next one. It keeps the memory of its lists and
// nothing of the request: it may wait long, and must not keep a secret alive.
func (s *checkService) release(c *call) {
	c.set, c.reply = nil, nil
	c.request.Forget()
	c.check.Forget()
	s.calls.Put(c)
}

// recover answers a panic with an RPC error, which is never an allow.
func (s *checkService) recover(err *error) {
	if p := recover(); p != nil {
		*err = panicked(s.authorizer, authv3.Authorization_Check_FullMethodName, p)
	}
}

func panicked(a *extauthz.Authorizer, method string, p any) error {
	a.Panicked(method, p)
	return status.Error(codes.Internal, "tollgate: internal error")
}

// Name is that of the messages' encoding, as gRPC puts it into content types.
func (s *checkService) Name() string { return proto.Name }

// Unmarshal reads a message. gRPC frees data afterwards; nothing of it is kept.
func (s *checkService) Unmarshal(data mem.BufferSlice, v any) error {
	c, ok := v.(*call)
	if !ok {
		if log, ok := v.(*logStream); ok {
			return log.receive(data)
		}
		return s.others.Unmarshal(data, v)
	}
	c.start = time.Now()
	c.set = s.authorizer.Policy()
	if len(data) == 1 {
		return c.decoder.decode(s.shape, data[0].ReadOnlyData(), c.set, &c.request)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return c.decoder.decode(s.shape, whole.ReadOnlyData(), c.set, &c.request)
}

// Marshal writes a message. It is the last use of a call.
func (s *checkService) Marshal(v any) (mem.BufferSlice, error) {
	c, ok := v.(*call)
	if !ok {
		return s.others.Marshal(v)
	}
	reply := mem.NewBuffer(c.reply, mem.DefaultBufferPool())
	s.release(c)
	return mem.BufferSlice{reply}, nil
}
