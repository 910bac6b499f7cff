package issuer_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/oauthtest"
)

// problemOf fetches the keys of an issuer over the loopback and returns what was wrong.
func problemOf(t *testing.T, i *oauth.Issuer) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	k := issuer.New(issuer.Options{Issuers: func() []*oauth.Issuer { return []*oauth.Issuer{i} }})
	ended := make(chan struct{})
	go func() { defer close(ended); k.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for {
		if s := k.Status(); len(s) == 1 && s[0].Fetches+s[0].Failures > 0 {
			return s[0].Problem
		}
		select {
		case <-t.Context().Done():
			t.Fatal("nothing was fetched")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestDocumentsOfIssuers(t *testing.T) {
	one := oauthtest.NewSigner(t, "one", "ES256")
	elsewhere := oauthtest.NewServer(t, one)
	description := func(of, jwks string) string { return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, of, jwks) }
	for name, tt := range map[string]struct {
		kind, body string // of the description; kind is its Content-Type
		keys       http.HandlerFunc
		want       string
	}{
		"good":                   {want: ""},
		"keys on another host":   {body: description("ISSUER", elsewhere.URL+"/jwks"), want: ""},
		"another issuer":         {body: description("https://evil.example.com", "ISSUER/jwks"), want: "another issuer"},
		"a trailing slash":       {body: description("ISSUER/", "ISSUER/jwks"), want: "another issuer"},
		"no keys":                {body: `{"issuer":"ISSUER"}`, want: "no jwks_uri"},
		"keys over http":         {body: description("ISSUER", "http://keys.example.com/jwks"), want: "https"},
		"keys in a file":         {body: description("ISSUER", "file:///etc/passwd"), want: "https"},
		"issuer twice":           {body: `{"issuer":"https://evil.example.com","issuer":"ISSUER","jwks_uri":"ISSUER/jwks"}`, want: "twice"},
		"a list":                 {body: `[]`, want: "object"},
		"a long description":     {body: `{"issuer":"ISSUER","x":"` + strings.Repeat("x", 65<<10) + `"}`, want: "longer"},
		"a page":                 {kind: "text/html", body: "<html>", want: "Content-Type"},
		"no type":                {kind: "-", body: description("ISSUER", "ISSUER/jwks"), want: "Content-Type"},
		"10 MB of keys":          {keys: write("application/json", `{"keys":[],"x":"`+strings.Repeat("x", 10<<20)+`"}`), want: "longer"},
		"keys of another type":   {keys: write("text/plain", `{"keys":[]}`), want: "Content-Type"},
		"keys by their own type": {keys: write("application/jwk-set+json", string(oauthtest.KeySet(t, one.JWK()))), want: ""},
		"no key of use":          {keys: write("application/json", `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`), want: "no key"},
		"keys elsewhere by a redirect": {keys: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/jwks", http.StatusFound)
		}, want: "redirects"},
		"an error": {keys: away, want: "502"},
		"half of an answer": {keys: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{"))
		}, want: "broke"},
	} {
		s := oauthtest.NewServer(t, one)
		s.Answer(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/.well-known/openid-configuration" && tt.body != "":
				kind := tt.kind
				if kind == "" {
					kind = "application/json; charset=utf-8"
				}
				write(kind, strings.ReplaceAll(tt.body, "ISSUER", s.URL))(w, r)
			case r.URL.Path == "/.well-known/openid-configuration":
				write("application/json", description(s.URL, s.URL+"/jwks"))(w, r)
			case tt.keys != nil:
				tt.keys(w, r)
			default:
				write("application/json", string(oauthtest.KeySet(t, one.JWK())))(w, r)
			}
		})
		got := problemOf(t, &oauth.Issuer{URL: s.URL})
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if strings.Contains(got, s.URL) {
			t.Errorf("%s: the error names the URL: %s", name, got)
		}
	}
}

func write(kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		if kind != "-" {
			w.Header().Set("Content-Type", kind)
		}
		_, _ = w.Write([]byte(body))
	}
}

// An issuer that describes itself as RFC 8414 has it, with its path behind the well-known one.
func TestOtherPlaceOfDiscovery(t *testing.T) {
	one := oauthtest.NewSigner(t, "one", "ES256")
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server/tenant":
			write("application/json", fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, s.URL+"/tenant", s.URL+"/keys"))(w, r)
		case "/keys":
			write("application/json", string(oauthtest.KeySet(t, one.JWK())))(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	if problem := problemOf(t, &oauth.Issuer{URL: s.URL + "/tenant"}); problem != "" {
		t.Error(problem)
	}
}

// Nothing listens, a certificate that nobody has signed, a name that only looks like this machine.
func TestConnectionsToIssuers(t *testing.T) {
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	defer tls.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for url, want := range map[string]string{tls.URL: "certificate", gone.URL: "refused", "http://192.0.2.1": "not this machine"} {
		if got := problemOf(t, &oauth.Issuer{URL: url}); !strings.Contains(got, want) {
			t.Errorf("%s: %q", url, got)
		}
	}
}
