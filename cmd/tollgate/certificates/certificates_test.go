package certificates_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"tollgate/cmd/tollgate/certificates"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/grpcserver"
)

func TestMutualTLSAndReload(t *testing.T) {
	ca, stranger, dir := extauthztest.NewAuthority(t), extauthztest.NewAuthority(t), t.TempDir()
	cert1, _, certPEM, keyPEM := ca.Issue(t, "tollgate")
	files := certificates.Files{
		Certificate: extauthztest.WriteFile(t, filepath.Join(dir, "tls.crt"), certPEM),
		Key:         extauthztest.WriteFile(t, filepath.Join(dir, "tls.key"), keyPEM),
		ClientCA:    extauthztest.WriteFile(t, filepath.Join(dir, "ca.crt"), ca.PEM),
	}
	certificates, err := certificates.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile())
	s.ServeGRPC(t, grpcserver.Config{TLS: certificates.Config()})
	ask := func(by *extauthztest.Authority) (*x509.Certificate, error) {
		_, _, clientPEM, clientKey := by.Issue(t, "envoy")
		pair, err := tls.X509KeyPair(clientPEM, clientKey)
		if err != nil {
			t.Fatal(err)
		}
		var seen *x509.Certificate
		conn, err := grpc.NewClient(s.Addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: ca.Pool(), ServerName: "tollgate", Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
			VerifyConnection: func(state tls.ConnectionState) error { seen = state.PeerCertificates[0]; return nil },
		})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = authv3.NewAuthorizationClient(conn).Check(extauthztest.Within(t), &authv3.CheckRequest{})
		return seen, err
	}
	if seen, err := ask(ca); err != nil || seen.SerialNumber.Cmp(cert1.SerialNumber) != 0 {
		t.Errorf("a client of our CA: %v", err)
	}
	if _, err := ask(stranger); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of another CA: %v", err)
	}

	cert2, _, certPEM, keyPEM2 := ca.Issue(t, "tollgate")
	extauthztest.WriteFile(t, files.Certificate, certPEM)
	if err := certificates.Refresh(); err == nil {
		t.Error("a certificate beside the key of another was taken")
	}
	if seen, err := ask(ca); err != nil || seen.SerialNumber.Cmp(cert1.SerialNumber) != 0 {
		t.Errorf("after a refused reload: %v", err)
	}
	extauthztest.WriteFile(t, files.Key, keyPEM2)
	if err := certificates.Refresh(); err != nil {
		t.Fatal(err)
	}
	if seen, err := ask(ca); err != nil || seen.SerialNumber.Cmp(cert2.SerialNumber) != 0 {
		t.Errorf("after the reload: %v", err)
	}
	extauthztest.WriteFile(t, files.ClientCA, stranger.PEM)
	if err := certificates.Refresh(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(ca); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of the CA that was replaced: %v", err)
	}
}

func TestCertificatesThatCannotBeRead(t *testing.T) {
	ca, dir := extauthztest.NewAuthority(t), t.TempDir()
	_, _, certPEM, keyPEM := ca.Issue(t, "tollgate")
	cert, key := extauthztest.WriteFile(t, filepath.Join(dir, "tls.crt"), certPEM), extauthztest.WriteFile(t, filepath.Join(dir, "tls.key"), keyPEM)
	empty := extauthztest.WriteFile(t, filepath.Join(dir, "empty"), nil)
	for name, files := range map[string]certificates.Files{
		"no key":         {Certificate: cert},
		"only a CA":      {ClientCA: cert},
		"missing file":   {Certificate: cert, Key: filepath.Join(dir, "none")},
		"no certificate": {Certificate: filepath.Join(dir, "none"), Key: key},
		"no CA file":     {Certificate: cert, Key: key, ClientCA: filepath.Join(dir, "none")},
		"empty CA file":  {Certificate: cert, Key: key, ClientCA: empty},
	} {
		if _, err := certificates.Load(files, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "tls: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
