package extauthz_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tollgate/extauthz"
	"tollgate/policy"
	"tollgate/policy/keys"
)

func TestHealthThenDrainThenStop(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := func(context.Context) (keys.Grant, error) {
		close(entered)
		<-release
		return keys.Grant{}, keys.ErrUnknown
	}
	s := newStack(t, func(c *extauthz.AuthorizerConfig) { c.Keys = brokenStore{lookup: slow} }, smallFile())
	conn := s.dial(t)
	health := healthv1.NewHealthClient(conn)
	for _, service := range []string{"", "envoy.service.auth.v3.Authorization"} {
		resp, err := health.Check(within(t), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, resp, err)
		}
	}
	watch, err := health.Watch(within(t), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	secret, _ := smallKey()
	answered := make(chan error, 1)
	go func() {
		resp, err := authv3.NewAuthorizationClient(conn).Check(within(t), get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
		if err == nil && resp.GetDeniedResponse().GetStatus().GetCode() != 401 {
			err = errors.New(resp.String())
		}
		answered <- err
	}()
	<-entered
	s.server.Drain()
	s.server.SetReady(true) // comes too late
	if resp, err := watch.Recv(); err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health while draining: %v, %v", resp, err)
	}
	if resp, err := authv3.NewAuthorizationClient(s.dial(t)).Check(within(t), get("/open", nil)); err != nil || resp.GetStatus().GetCode() != 0 {
		t.Errorf("a check while proxies notice: %v, %v", resp, err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.server.Shutdown(within(t))
	}()
	// A watcher never ends by itself.
	if resp, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a watch of a server that stops: %v, %v", resp, err)
	}
	select {
	case <-stopped:
		t.Error("stopped while a call was under way")
	default:
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	<-stopped
}

func TestReflectionIsOffUnlessAsked(t *testing.T) {
	for _, on := range []bool{false, true} {
		s := newStack(t, nil, smallFile())
		s.serveGRPC(t, extauthz.Config{Reflection: on})
		stream, err := reflectionv1.NewServerReflectionClient(s.dial(t)).ServerReflectionInfo(within(t))
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
		_, err = stream.Recv()
		if off := status.Code(err) == codes.Unimplemented; off == on {
			t.Errorf("reflection %v: %v", on, err)
		}
		_ = stream.CloseSend()
	}
}

// authorityOf makes certificates.
type authorityOf struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authorityOf {
	t.Helper()
	a := &authorityOf{}
	a.cert, a.key, a.pem, _ = a.issue(t, "ca")
	return a
}

func (a *authorityOf) issue(t *testing.T, name string) (*x509.Certificate, *ecdsa.PrivateKey, []byte, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: a.cert == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// pool is what trusts this authority alone.
func (a *authorityOf) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestMutualTLSAndReload(t *testing.T) {
	ca, stranger, dir := newAuthority(t), newAuthority(t), t.TempDir()
	cert1, _, certPEM, keyPEM := ca.issue(t, "tollgate")
	files := extauthz.CertificateFiles{
		Certificate: writeFile(t, filepath.Join(dir, "tls.crt"), certPEM),
		Key:         writeFile(t, filepath.Join(dir, "tls.key"), keyPEM),
		ClientCA:    writeFile(t, filepath.Join(dir, "ca.crt"), ca.pem),
	}
	certificates, err := extauthz.LoadCertificates(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t, nil, smallFile())
	s.serveGRPC(t, extauthz.Config{TLS: certificates.Config()})
	ask := func(by *authorityOf) (*x509.Certificate, error) {
		_, _, clientPEM, clientKey := by.issue(t, "envoy")
		pair, err := tls.X509KeyPair(clientPEM, clientKey)
		if err != nil {
			t.Fatal(err)
		}
		var seen *x509.Certificate
		conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: ca.pool(), ServerName: "tollgate", Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
			VerifyConnection: func(state tls.ConnectionState) error { seen = state.PeerCertificates[0]; return nil },
		})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = authv3.NewAuthorizationClient(conn).Check(within(t), &authv3.CheckRequest{})
		return seen, err
	}
	if seen, err := ask(ca); err != nil || seen.SerialNumber.Cmp(cert1.SerialNumber) != 0 {
		t.Errorf("a client of our CA: %v", err)
	}
	if _, err := ask(stranger); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of another CA: %v", err)
	}

	cert2, _, certPEM, keyPEM2 := ca.issue(t, "tollgate")
	writeFile(t, files.Certificate, certPEM)
	if err := certificates.Refresh(); err == nil {
		t.Error("a certificate beside the key of another was taken")
	}
	if seen, err := ask(ca); err != nil || seen.SerialNumber.Cmp(cert1.SerialNumber) != 0 {
		t.Errorf("after a refused reload: %v", err)
	}
	writeFile(t, files.Key, keyPEM2)
	if err := certificates.Refresh(); err != nil {
		t.Fatal(err)
	}
	if seen, err := ask(ca); err != nil || seen.SerialNumber.Cmp(cert2.SerialNumber) != 0 {
		t.Errorf("after the reload: %v", err)
	}
	writeFile(t, files.ClientCA, stranger.pem)
	if err := certificates.Refresh(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(ca); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of the CA that was replaced: %v", err)
	}
}

func TestCertificatesThatCannotBeRead(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	_, _, certPEM, keyPEM := ca.issue(t, "tollgate")
	cert, key := writeFile(t, filepath.Join(dir, "tls.crt"), certPEM), writeFile(t, filepath.Join(dir, "tls.key"), keyPEM)
	empty := writeFile(t, filepath.Join(dir, "empty"), nil)
	for name, files := range map[string]extauthz.CertificateFiles{
		"no key":         {Certificate: cert},
		"only a CA":      {ClientCA: cert},
		"missing file":   {Certificate: cert, Key: filepath.Join(dir, "none")},
		"no certificate": {Certificate: filepath.Join(dir, "none"), Key: key},
		"no CA file":     {Certificate: cert, Key: key, ClientCA: filepath.Join(dir, "none")},
		"empty CA file":  {Certificate: cert, Key: key, ClientCA: empty},
	} {
		if _, err := extauthz.LoadCertificates(files, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "tls: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPolicyReload(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "small.yaml")
	writeFile(t, file, []byte(small))
	registry, out := prometheus.NewRegistry(), &logs{}
	log := slog.New(slog.NewTextHandler(out, nil))
	policies, err := extauthz.LoadPolicies(dir, log, extauthz.NewMetrics(registry))
	if err != nil {
		t.Fatal(err)
	}
	counted := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			if all := metricsOf(registry); !strings.Contains(all, text) {
				t.Errorf("no %q in:\n%s", text, all)
			}
		}
	}
	now := time.Now()
	first := policies.Current()
	policies.Refresh(now)
	if policies.Current() != first {
		t.Error("unchanged files were loaded again")
	}

	writeFile(t, file, []byte(strings.Replace(small, "per: minute", "per: fortnight", 1)))
	policies.Refresh(now)
	policies.Refresh(now.Add(time.Second))
	if policies.Current() != first {
		t.Error("a bad file took the place of the old policy")
	}
	if n := strings.Count(out.String(), "fortnight"); n != 1 {
		t.Errorf("told %d times within a second", n)
	}
	policies.Refresh(now.Add(2 * time.Minute))
	if n := strings.Count(out.String(), "fortnight"); n != 2 {
		t.Errorf("told %d times after two minutes", n)
	}
	if _, refused := policies.Status(); refused == nil || !strings.Contains(refused.Error(), "small.yaml:11:59") || !strings.Contains(refused.Error(), `unknown unit "fortnight"`) {
		t.Errorf("refused: %v", refused)
	}
	counted("tollgate_policy_rejected 1", `tollgate_policy_loads_total{result="rejected"} 3`)

	if err := os.Rename(file, file+".bak"); err != nil {
		t.Fatal(err)
	}
	policies.Refresh(now)
	if policies.Current() != first {
		t.Error("an empty folder took the place of the old policy")
	}
	writeFile(t, file, []byte(strings.Replace(small, "requests: 5", "requests: 6", 1)))
	ctx, cancel := context.WithCancel(t.Context())
	ticks, followed := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(followed)
		policies.Follow(ctx, ticks)
	}()
	ticks <- now
	ticks <- now // the first has been worked off
	if policies.Current() == first {
		t.Error("the mended file is not in force")
	}
	cancel()
	<-followed
	if _, refused := policies.Status(); refused != nil {
		t.Errorf("refused: %v", refused)
	}
	counted("tollgate_policy_rejected 0", "tollgate_policy_apis 1")
}

func TestFirstPolicyMustLoad(t *testing.T) {
	log, m := slog.New(slog.DiscardHandler), extauthz.NewMetrics(prometheus.NewRegistry())
	if _, err := extauthz.LoadPolicies(filepath.Join(t.TempDir(), "none"), log, m); err == nil {
		t.Error("a missing folder loaded")
	}
	bad := writeFile(t, filepath.Join(t.TempDir(), "bad.yaml"), []byte("api: Bad\n"))
	if _, err := extauthz.LoadPolicies(bad, log, m); err == nil || !strings.Contains(err.Error(), `bad api name "Bad"`) {
		t.Errorf("%v", err)
	}
}

// Whatever a decision holds, what leaves is a header value that no HTTP/1 writer
// can be split by.
func TestHeaderValuesAreClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain value":            "plain value",
		"a\r\nx-evil: 1":         "a  x-evil: 1",
		"nul\x00":                "nul ",
		"tab\tstays":             "tab\tstays",
		"Büro":                   "Büro",
		"bad utf-8 \xff\xfe end": "bad utf-8 ? end",
		"del\x7f":                "del ",
	} {
		if got := extauthz.CleanValue(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	evil := []policy.Header{{Name: "x-consumer-id", Value: "a\r\nx-admin: 1"}}
	for _, d := range []*policy.Decision{
		{Allow: true, Request: evil, Response: evil, Target: "/a\r\nb", Metadata: []policy.Header{{Name: "team", Value: "\xff"}}},
		{Status: 403, Response: evil, Body: []byte("\xff")},
	} {
		resp := decodeReply(t, extauthz.Reply(d))
		for _, o := range append(append(resp.GetOkResponse().GetHeaders(), resp.GetOkResponse().GetResponseHeadersToAdd()...), resp.GetDeniedResponse().GetHeaders()...) {
			if strings.ContainsAny(o.GetHeader().GetValue(), "\r\n\x00") {
				t.Errorf("%v", o)
			}
		}
	}
	if got := decodeReply(t, extauthz.Reply(&policy.Decision{})).GetStatus().GetCode(); got == 0 {
		t.Error("the zero decision allows")
	}
}

func decodeReply(t *testing.T, b []byte) *authv3.CheckResponse {
	t.Helper()
	resp := &authv3.CheckResponse{}
	if err := proto.Unmarshal(b, resp); err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestParseDecisions(t *testing.T) {
	for _, good := range []string{"none", "denied", "all"} {
		if got, err := extauthz.ParseDecisions(good); err != nil || string(got) != good {
			t.Errorf("%q: %v, %v", good, got, err)
		}
	}
	if _, err := extauthz.ParseDecisions("some"); err == nil {
		t.Error(`"some" was taken`)
	}
}

func TestPeersThatAreNoAddress(t *testing.T) {
	s := newStack(t, nil, smallFile())
	req := get("/open", nil)
	req.Attributes.Source = nil
	resp, err := authv3.NewAuthorizationClient(s.dial(t)).Check(within(t), req)
	if err != nil || resp.GetStatus().GetCode() != 0 {
		t.Errorf("a public route over a unix socket: %v, %v", resp, err)
	}
}

// What holds up or breaks a reload must hold up nothing else.
func TestReloadThatHangsOrPanics(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "small.yaml"), []byte(small))
	policies, err := extauthz.LoadPolicies(dir, slog.New(slog.DiscardHandler), extauthz.NewMetrics(prometheus.NewRegistry()))
	if err != nil {
		t.Fatal(err)
	}
	first := policies.Current()
	pipe := filepath.Join(dir, "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	policies.Refresh(time.Now())
	if _, refused := policies.Status(); refused == nil || !strings.Contains(refused.Error(), "pipe.yaml is not a regular file") {
		t.Errorf("a pipe: %v", refused)
	}
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	nested := "code: unauthorized, message: No., details: {\"item[0\": \"{nope}\"}}"
	writeFile(t, filepath.Join(dir, "small.yaml"), []byte(strings.Replace(small, "code: unauthorized, message: No.}", nested, 1)))
	policies.Refresh(time.Now())
	if _, refused := policies.Status(); refused == nil || !strings.Contains(refused.Error(), `bad details name "item[0"`) {
		t.Errorf("a name that is no path: %v", refused)
	}
	if policies.Current() != first {
		t.Error("the old policy is no longer in force")
	}
}
