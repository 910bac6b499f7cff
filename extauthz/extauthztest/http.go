package extauthztest

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"

	"tollgate/extauthz/httpserver"
)

// HTTPMetadata takes the text of X-Tollgate-Decision apart.
func HTTPMetadata(t *testing.T, text string) map[string]string {
	t.Helper()
	meta := map[string]string{}
	for field := range strings.SplitSeq(text, ";") {
		name, value, ok := strings.Cut(field, "=")
		plain, err := url.PathUnescape(value)
		if !ok || err != nil {
			t.Errorf("metadata %q: %v", field, err)
		}
		meta[name] = plain
	}
	return meta
}

// Loopback are the addresses of this machine.
func Loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// ServeHTTP serves a stack over HTTP on a free port of the loopback.
func ServeHTTP(t *testing.T, s *Stack, config httpserver.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.HTTP = httpserver.New(s.Authorizer, config)
	ServeHTTPOn(t, s.HTTP, l)
	return l.Addr().String()
}

// ServeHTTPOn serves on a listener until the test ends.
func ServeHTTPOn(t *testing.T, server *httpserver.Server, l net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		server.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// ShortFolder returns a folder whose path leaves room for a unix socket's name.
func ShortFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tollgate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
