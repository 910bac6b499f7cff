package ask

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/structpb"

	"tollgate/policy/connect/redistest"
)

// authority answers each check in the same way, and notes the last one.
type authority struct {
	authv3.UnimplementedAuthorizationServer
	answer *authv3.CheckResponse
	last   *authv3.CheckRequest
}

func (a *authority) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.last = r
	return a.answer, nil
}

func reply(code int32, status typev3.StatusCode, reason string) *authv3.CheckResponse {
	r := &authv3.CheckResponse{Status: &rpcstatus.Status{Code: code}}
	if status != 0 {
		r.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: status}}}
	}
	if reason != "" {
		r.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{"reason": structpb.NewStringValue(reason)}}
	}
	return r
}

func serve(t *testing.T, a *authority, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	authv3.RegisterAuthorizationServer(s, a)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// run runs the command.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd, out := Command(), &bytes.Buffer{}
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name     string
		answer   *authv3.CheckResponse
		out, err string
	}{
		{"allowed", reply(0, 0, "allowed"), "allowed (allowed)\n", ""},
		{"refused", reply(7, 429, "rate_limited"), "refused with 429 (rate_limited)\n", ""},
		{"undecided", reply(7, 503, "undecided"), "refused with 503 (undecided)\n", "could not decide"},
		{"an empty answer, which allows", &authv3.CheckResponse{}, "", "not as Tollgate does"},
		{"of another server", reply(7, 403, ""), "", "not as Tollgate does"},
		{"without a status", reply(7, 0, "route_denied"), "", "not as Tollgate does"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := run(t, "--server", serve(t, &authority{answer: c.answer}))
			if out != c.out || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}

func TestRequestIsThatOfTheFlags(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("ak_secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  []string
		name  string
		value string
	}{
		{nil, "authorization", "Bearer ak_secret"},
		{[]string{"--key-header", "X-API-Key"}, "x-api-key", "ak_secret"},
	} {
		a := &authority{answer: reply(0, 0, "allowed")}
		if _, err := run(t, append([]string{"--server", serve(t, a), "--host", "api.example.com", "--method", "POST", "--path", "/v1/orders?a=b",
			"--context", "api=orders", "--context", "environment=live", "--key-file", key}, c.args...)...); err != nil {
			t.Fatal(err)
		}
		got := a.last.GetAttributes()
		h := got.GetRequest().GetHttp()
		if h.GetHost() != "api.example.com" || h.GetMethod() != "POST" || h.GetPath() != "/v1/orders?a=b" || len(h.GetHeaders()) != 1 || h.GetHeaders()[c.name] != c.value ||
			len(got.GetContextExtensions()) != 2 || got.GetContextExtensions()["api"] != "orders" {
			t.Errorf("%v", got)
		}
	}
}

// The certificates are those of files, and a server that is none of theirs is not asked.
func TestEncrypted(t *testing.T) {
	dir := t.TempDir()
	ca := redistest.NewAuthority(t)
	ca.Write(t, filepath.Join(dir, "ca.pem"))
	ca.Issue(t, dir, "server", 2, "127.0.0.1")
	ca.Issue(t, dir, "client", 3)
	redistest.NewAuthority(t).Write(t, filepath.Join(dir, "other.pem"))
	in := func(name string) string { return filepath.Join(dir, name) }
	pair, err := tls.LoadX509KeyPair(in("server.pem"), in("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(in("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(pem)
	address := serve(t, &authority{answer: reply(7, 401, "missing_credential")}, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	if out, err := run(t, "--server", address, "--tls-ca", in("ca.pem"), "--tls-cert", in("client.pem"), "--tls-key", in("client.key")); err != nil || out != "refused with 401 (missing_credential)\n" {
		t.Errorf("%q, %v", out, err)
	}
	for _, c := range []struct {
		says string
		args []string
	}{
		{"unknown authority", []string{"--tls-ca", in("other.pem"), "--tls-cert", in("client.pem"), "--tls-key", in("client.key")}},
		{"", []string{"--tls-ca", in("ca.pem")}}, // what the server says of a missing certificate depends on when it is read
		{"", nil},
		{"--tls-cert and --tls-key", []string{"--tls-ca", in("ca.pem"), "--tls-cert", in("client.pem")}},
		{"there is no --tls-ca", []string{"--tls-cert", in("client.pem"), "--tls-key", in("client.key")}},
		{"holds no PEM certificate", []string{"--tls-ca", in("client.key")}},
		{"--tls-ca: open", []string{"--tls-ca", in("none.pem")}},
		{"--tls-cert: ", []string{"--tls-ca", in("ca.pem"), "--tls-cert", in("client.pem"), "--tls-key", in("server.key")}},
	} {
		// A slow machine may not get to the reason in a short time.
		for timeout := 300 * time.Millisecond; ; timeout *= 3 {
			out, err := run(t, append([]string{"--server", address, "--timeout", timeout.String()}, c.args...)...)
			if err != nil && strings.Contains(err.Error(), c.says) && out == "" {
				break
			}
			if err == nil || timeout > 10*time.Second {
				t.Errorf("%v: %q, %v", c.args, out, err)
				break
			}
		}
	}
}
