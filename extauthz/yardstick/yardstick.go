// Package yardstick is what Tollgate's speed is compared with: a stock grpc-go
// server, made without any option, that unmarshals each CheckRequest with the
// generated code, looks at nothing, and always allows.
//
// Its replies carry the headers that Tollgate's carry, built and marshalled with
// the generated code for each call, as a server written in the usual way does.
// They have no dynamic metadata, which the yardstick would pay for and such a
// server would not send.
//
// Floor is a second measure: grpc-go alone, with the settings that Tollgate gives
// it, which hands bytes in and bytes out and decodes nothing.
package yardstick

import (
	"context"
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"tollgate/extauthz/grpcserver"
)

// New returns the server. reply is a CheckResponse that allows, on the wire; its
// headers are what every call is answered with. An error says that it is not one.
func New(reply []byte) (*grpc.Server, error) {
	var r authv3.CheckResponse
	if err := proto.Unmarshal(reply, &r); err != nil {
		return nil, fmt.Errorf("yardstick: reply: %w", err)
	}
	ok := r.GetOkResponse()
	if ok == nil || r.GetStatus().GetCode() != 0 {
		return nil, errors.New("yardstick: the reply does not allow")
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, &authority{
		request: list(ok.GetHeaders()), response: list(ok.GetResponseHeadersToAdd()), remove: ok.GetHeadersToRemove(),
	})
	return s, nil
}

// authority always allows.
type authority struct {
	authv3.UnimplementedAuthorizationServer
	request, response []header
	remove            []string
}

type header struct{ name, value string }

// Check implements ext_authz v3.
func (a *authority) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: options(a.request), HeadersToRemove: a.remove, ResponseHeadersToAdd: options(a.response),
		}},
	}, nil
}

func list(options []*corev3.HeaderValueOption) []header {
	var l []header
	for _, o := range options {
		l = append(l, header{o.GetHeader().GetKey(), o.GetHeader().GetValue()})
	}
	return l
}

func options(headers []header) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, 0, len(headers))
	for _, h := range headers {
		out = append(out, &corev3.HeaderValueOption{
			Header: &corev3.HeaderValue{Key: h.name, Value: h.value},
			//lint:ignore SA1019 the same as Tollgate's replies
			Append:       wrapperspb.Bool(false),
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return out
}

// Floor returns a server with the transport of Tollgate's, which answers each call
// with these bytes and decodes nothing.
func Floor(reply []byte) *grpc.Server {
	s := grpc.NewServer(append(grpcserver.TransportOptions(), grpc.ForceServerCodecV2(bytesCodec{reply}))...)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: authv3.Authorization_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Check", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return struct{}{}, decode(nil) // grpc-go does not marshal a nil
		}}},
	}, struct{}{})
	return s
}

// bytesCodec answers everything with the same bytes.
type bytesCodec struct{ reply []byte }

// Name is that of the codec it stands for.
func (bytesCodec) Name() string { return "proto" }

// Marshal returns the reply.
func (c bytesCodec) Marshal(any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(c.reply)}, nil
}

// Unmarshal leaves the request alone.
func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
