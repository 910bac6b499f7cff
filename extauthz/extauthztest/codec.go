package extauthztest

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// CheckCanonical compares a reply with the message that it should be. Bytes of the
// same length that decode to the same message are those of the generated encoder,
// but for the order of a map.
func CheckCanonical(t interface{ Fatalf(string, ...any) }, b []byte, want *authv3.CheckResponse) {
	got := &authv3.CheckResponse{}
	if err := proto.Unmarshal(b, got); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	if !proto.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	if len(b) != proto.Size(want) {
		t.Fatalf("%d bytes, the generated code writes %d: %v", len(b), proto.Size(want), want)
	}
}

// strictCodec checks each reply that a client receives: it is what the generated code
// would write.
type strictCodec struct {
	encoding.CodecV2
	t *testing.T
}

// Unmarshal reads a message, and checks it if it is a reply.
func (c strictCodec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if m, ok := v.(*authv3.CheckResponse); ok && err == nil {
		CheckCanonical(fatal{c.t}, data.Materialize(), proto.CloneOf(m))
	}
	return err
}

// fatal ends no test from a goroutine that is not the test's own.
type fatal struct{ t *testing.T }

// Fatalf fails the test.
func (f fatal) Fatalf(format string, args ...any) { f.t.Errorf(format, args...) }
