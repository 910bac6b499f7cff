package grpcserver_test

import (
	"context"
	"flag"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// record says that the files in testdata/accesslog are to be written anew:
// go test ./extauthz/grpcserver -run RecordedLogs -record
var record = flag.Bool("record", false, "write the recorded messages in testdata/accesslog anew")

// tap hands calls on to a server, and keeps the messages of access logs.
type tap struct{ messages chan []byte }

func (p *tap) serve(t *testing.T, behind string) string {
	t.Helper()
	to, err := grpc.NewClient(behind, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(anyBytes{})))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(anyBytes{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		for {
			var in, out []byte
			if err := stream.RecvMsg(&in); err != nil {
				return err
			}
			if method == accesslogv3.AccessLogService_StreamAccessLogs_FullMethodName {
				p.messages <- in
				continue
			}
			if err := to.Invoke(stream.Context(), method, &in, &out); err != nil {
				return err
			}
			return stream.SendMsg(&out)
		}
	}))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); _ = to.Close() })
	return l.Addr().String()
}

// anyBytes sends and receives bytes as they are.
type anyBytes struct{}

func (anyBytes) Name() string { return "proto" }
func (anyBytes) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}
func (anyBytes) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// The recorded messages are what a real Envoy sends: the same fields, though ids, ports and
// times differ. Envoy says who it is in the first of them.
func TestRecordedLogs(t *testing.T) {
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	came, leave := make(chan bool, 1), make(chan bool)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/items/slow" {
			came <- true
			<-r.Context().Done()
			<-leave
		}
	}))
	t.Cleanup(upstream.Close)
	defer close(leave)
	binary, err := envoytest.Find()
	if err != nil {
		extauthztest.Require(t, "envoy", err.Error())
	}
	shipped, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	log := &tap{messages: make(chan []byte, 100)}
	running, err := envoytest.Start(extauthztest.Within(t), envoytest.Settings{
		Binary: binary, Bootstrap: []byte(strings.Replace(string(shipped), "access_log_flush_interval: 20s", "access_log_flush_interval: 1s", 1)),
		Tollgate: log.serve(t, s.Addr), Upstream: upstream.Listener.Addr().String(), CheckTimeout: extauthztest.Limit, Dir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Stop() })
	send := func(ctx context.Context, method, target, key, body string) {
		r := &envoytest.Request{Method: method, Target: target, Host: "small.test", Body: []byte(body), Headers: [][2]string{{"authorization", "Bearer " + key}}}
		_, _ = r.SendH1(ctx, running.Addr(), false) // its log is what is looked at
	}
	for _, c := range []struct {
		name string
		send func()
	}{
		{"first", func() { send(t.Context(), "GET", "/open", "", "") }},
		{"allowed", func() { send(t.Context(), "POST", "/items/1?api_key="+secret, secret, "a body") }},
		{"denied", func() { send(t.Context(), "GET", "/items/1?api_key=sm_placeholder", "sm_placeholder", "") }},
		{"periodic", func() {
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			go send(ctx, "GET", "/items/slow", secret, "")
			<-came
		}},
	} {
		c.send()
		var got []byte
		select {
		case got = <-log.messages:
		case <-time.After(extauthztest.Limit):
			t.Fatalf("%s: no message", c.name)
		}
		file := filepath.Join("../../testdata/accesslog", c.name+".binpb")
		if *record {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if g, w := fieldsOf(t, got), fieldsOf(t, want); !reflect.DeepEqual(g, w) {
			t.Errorf("%s: Envoy sends\n%s\nrecorded is\n%s", c.name, strings.Join(g, "\n"), strings.Join(w, "\n"))
		}
		if strings.Contains(string(want), secret) {
			t.Errorf("%s: the recorded message holds the secret", c.name)
		}
	}
}

// fieldsOf lists the fields that a message has, without their values.
func fieldsOf(t *testing.T, b []byte) (list []string) {
	t.Helper()
	var m accesslogv3.StreamAccessLogsMessage
	if err := proto.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	var visit func(prefix string, m protoreflect.Message)
	visit = func(prefix string, m protoreflect.Message) {
		for i := range m.Descriptor().Fields().Len() {
			f := m.Descriptor().Fields().Get(i)
			if !m.Has(f) {
				continue
			}
			name := prefix + string(f.Name())
			list = append(list, name)
			switch {
			case f.IsList() && f.Name() == "log_entry":
				visit(name+".", m.Get(f).List().Get(0).Message())
			case f.Message() != nil && !f.IsList() && !f.IsMap():
				visit(name+".", m.Get(f).Message())
			}
		}
	}
	visit("", m.ProtoReflect())
	return list
}
