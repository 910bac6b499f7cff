package oauthtest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Server is an authorization server that has keys and does as tests say.
type Server struct {
	URL string // its identifier

	server *httptest.Server

	mu      sync.Mutex
	jwks    []byte
	age     string
	fetches int
	handle  http.HandlerFunc // in place of all that it would answer; nil for none
}

// NewServer starts an issuer with some keys on the loopback.
func NewServer(t testing.TB, signers ...*Signer) *Server {
	t.Helper()
	s := &Server{}
	s.Publish(t, signers...)
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	s.URL = s.server.URL
	return s
}

// Publish replaces the keys.
func (s *Server) Publish(t testing.TB, signers ...*Signer) {
	t.Helper()
	var jwks []map[string]any
	for _, signer := range signers {
		jwks = append(jwks, signer.JWK())
	}
	s.PublishSet(KeySet(t, jwks...))
}

// PublishSet replaces the keys by a document.
func (s *Server) PublishSet(jwks []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jwks = jwks
}

// Keep sets the Cache-Control of the keys.
func (s *Server) Keep(cacheControl string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.age = cacheControl
}

// Answer has every request answered so; nil ends that.
func (s *Server) Answer(handle http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = handle
}

// Fetches is how often keys were asked for.
func (s *Server) Fetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches
}

// ServeHTTP answers discovery and keys.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	handle, jwks, age := s.handle, s.jwks, s.age
	if r.URL.Path == "/jwks" {
		s.fetches++
	}
	url := s.URL
	s.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": url, "jwks_uri": url + "/jwks", "introspection_endpoint": url + "/introspect"})
	case "/jwks":
		if age != "" {
			w.Header().Set("Cache-Control", age)
		}
		_, _ = w.Write(jwks)
	default:
		http.NotFound(w, r)
	}
}

// RoundTrip lets a test have the server without a network, in a bubble of testing/synctest.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}

// NewServerAt is an issuer that is reached by its RoundTrip alone.
func NewServerAt(t testing.TB, url string, signers ...*Signer) *Server {
	t.Helper()
	s := &Server{URL: url}
	s.Publish(t, signers...)
	return s
}
