package manage

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/cmd/tollgate/certificates"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
)

// served runs serve with a handler that says who asks, and returns its port.
func served(t *testing.T, s *options, certs *certificates.Certificates) (port string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	policies, err := extauthz.LoadPolicies("../../../testdata/small.yaml", log, extauthz.NewMetrics(prometheus.NewRegistry()), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.addressesFile, s.reloadInterval = filepath.Join(t.TempDir(), "address"), time.Second
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	go func() { ended <- serve(ctx, s, handler, policies, certs, log) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	var chosen struct{ Manage string }
	if !tollgatetest.Within(t.Context(), 20*time.Second, func() bool {
		data, err := os.ReadFile(s.addressesFile)
		return err == nil && json.Unmarshal(data, &chosen) == nil
	}) {
		t.Fatal("it does not begin")
	}
	_, port, err = net.SplitHostPort(chosen.Manage)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// In plain text, off the loopback, connections of others than the trusted proxies are closed
// unread.
func TestOnlyTrustedProxiesInPlainText(t *testing.T) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for trusted, want := range map[string]bool{"192.0.2.0/24": false, "192.0.2.1, 127.0.0.1": true} {
		port := served(t, &options{address: "0.0.0.0:0", trusted: trusted}, nil)
		answer, err := client.Get("http://127.0.0.1:" + port)
		if (err == nil) != want {
			t.Errorf("trusted %s: %v", trusted, err)
		}
		if err == nil {
			_ = answer.Body.Close()
		}
	}
}

// With a certificate the API speaks HTTP/1.1 over TLS, and nothing in plain text.
func TestTLS(t *testing.T) {
	ca, dir := extauthztest.NewAuthority(t), t.TempDir()
	_, _, cert, key := ca.Issue(t, "tollgate")
	files := certificates.Files{
		Certificate: extauthztest.WriteFile(t, filepath.Join(dir, "tls.crt"), cert), Key: extauthztest.WriteFile(t, filepath.Join(dir, "tls.key"), key),
	}
	certs, err := certificates.Load(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	port := served(t, &options{address: "0.0.0.0:0", tlsCert: files.Certificate, tlsKey: files.Key}, certs)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "tollgate"},
	}}
	answer, err := client.Get("https://127.0.0.1:" + port)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || string(body) != "HTTP/1.1" {
		t.Errorf("%s, %v", body, err)
	}
	plain, err := client.Get("http://127.0.0.1:" + port)
	if err == nil {
		_ = plain.Body.Close()
		if plain.StatusCode != http.StatusBadRequest {
			t.Errorf("in plain text: %s", plain.Status)
		}
	}
}
