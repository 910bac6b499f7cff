package load

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

// answer is what a call was told.
type answer struct {
	allowed bool
	status  int    // HTTP status, 0 if there is none
	raw     []byte // only if keep
	keep    bool
	log     *accessLog // is told of the answer; nil for none
}

// checker makes ext_authz checks over a few gRPC connections.
type checker struct {
	conns []*grpc.ClientConn
}

func dialChecker(address string, connections int) (*checker, error) {
	c := &checker{}
	for range connections {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *checker) close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// call makes one check for a caller.
func (c *checker) call(ctx context.Context, caller int, request [3][]byte, a *answer) error {
	return c.conns[caller%len(c.conns)].Invoke(ctx, checkMethod, request, a)
}

// bytesCodec sends the parts of a request as they are, and takes from the reply
// only what it decides, so that the load costs little on a machine that it shares
// with the server.
type bytesCodec struct{}

// Name is that of the codec whose messages these are.
func (bytesCodec) Name() string { return "proto" }

// Marshal takes the parts of a request.
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	parts, ok := v.([3][]byte)
	if !ok {
		return nil, fmt.Errorf("load: a %T is no request", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(parts[0]), mem.SliceBuffer(parts[1]), mem.SliceBuffer(parts[2])}, nil
}

// Unmarshal fills an *answer.
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(*answer)
	if !ok {
		return fmt.Errorf("load: a %T is no answer", v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	if a.keep {
		a.raw = append(a.raw[:0], buffer.ReadOnlyData()...)
	}
	if err := a.parse(buffer.ReadOnlyData()); err != nil || a.log == nil || !a.allowed {
		return err
	}
	metadata, _, err := field(buffer.ReadOnlyData(), fieldMetadata)
	if err != nil {
		return err
	}
	return a.log.add(metadata)
}

// The field numbers of envoy.service.auth.v3.CheckResponse that decide.
const (
	fieldStatus       = 1 // google.rpc.Status; its code is field 1 and decides alone
	fieldDenied       = 2 // DeniedHttpResponse; its status is field 1
	fieldMetadata     = 4 // what Envoy keeps, and its access log repeats
	fieldCode         = 1
	fieldDeniedStatus = 1
)

func (a *answer) parse(message []byte) error {
	status, _, err := field(message, fieldStatus)
	if err != nil {
		return err
	}
	_, code, err := field(status, fieldCode)
	if err != nil {
		return err
	}
	a.allowed, a.status = code == 0, 0
	denied, _, err := field(message, fieldDenied)
	if err != nil {
		return err
	}
	http, _, err := field(denied, fieldDeniedStatus)
	if err != nil {
		return err
	}
	_, number, err := field(http, fieldCode)
	a.status = int(number)
	return err
}

// field returns the last value of a field of a message, as bytes or as number.
func field(message []byte, want protowire.Number) (value []byte, number uint64, err error) {
	for len(message) > 0 {
		num, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, 0, protowire.ParseError(n)
		}
		message = message[n:]
		switch {
		case num == want && kind == protowire.BytesType:
			value, n = protowire.ConsumeBytes(message)
		case num == want && kind == protowire.VarintType:
			number, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(num, kind, message)
		}
		if n < 0 {
			return nil, 0, protowire.ParseError(n)
		}
		message = message[n:]
	}
	return value, number, nil
}
