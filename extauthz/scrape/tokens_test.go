package scrape_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/scrape"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/introspection"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/oauthtest"
	"tollgate/policy/oauth/tokens"
)

// What became of tokens, and the keys of each issuer, are in what is scraped.
func TestTokenMetrics(t *testing.T) {
	const url, away = "https://login.example.com", "https://away.example.com"
	signer := oauthtest.NewSigner(t, "one", "ES256")
	server := oauthtest.NewServerAt(t, url, signer)
	one := &oauth.Issuer{API: "small", URL: url, Audiences: []string{"small"}, Algorithms: []string{"ES256"}, ClientClaim: "client_id", ScopeClaim: "scope", StaleFor: time.Hour}
	keeper := issuer.New(issuer.Options{Issuers: func() []*oauth.Issuer { return []*oauth.Issuer{one, {URL: away}} }, Client: &http.Client{Transport: server}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); keeper.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	verifier, registry := tokens.New(tokens.Options{Keys: keeper}), prometheus.NewRegistry()
	answer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"active":false}`))
	}))
	defer answer.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := *one
	asked.Introspection = &oauth.Introspection{Endpoint: answer.URL, ClientID: "tollgate", SecretFile: secret}
	asker := introspection.New(introspection.Options{})
	defer asker.Close()
	scrape.RegisterTokens(registry, verifier, keeper, asker)
	if _, err := asker.Introspect(extauthztest.Within(t), &asked, "opaque"); err == nil {
		t.Error("taken")
	}

	text := signer.Token(t, oauthtest.Claims(url, "small", "reports", time.Now()))
	for range 2 {
		if _, err := verifier.Verify(extauthztest.Within(t), []*oauth.Issuer{one}, text); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := verifier.Verify(extauthztest.Within(t), []*oauth.Issuer{one}, "a.b.c"); err == nil {
		t.Error("taken")
	}
	lines := []string{
		`tollgate_token_uses_total{outcome="known"} 1`, `tollgate_token_uses_total{outcome="verified"} 1`, `tollgate_token_uses_total{outcome="refused"} 1`,
		`tollgate_token_uses_total{outcome="undecided"} 0`, `tollgate_token_uses_total{outcome="busy"} 0`, "tollgate_tokens 1",
		`tollgate_issuer_keys{issuer="` + url + `"} 1`, `tollgate_issuer_fetches_total{issuer="` + url + `",outcome="succeeded"} 1`,
		`tollgate_introspection_calls_total{issuer="` + url + `",outcome="answered"} 1`, `tollgate_introspection_calls_total{issuer="` + url + `",outcome="busy"} 0`,
		`tollgate_introspection_answers{state="active"} 0`, `tollgate_introspection_answers{state="inactive"} 1`,
		`tollgate_issuer_keys{issuer="` + away + `"} 0`, `tollgate_issuer_fetched_timestamp_seconds{issuer="` + away + `"} 0`,
	}
	out := extauthztest.MetricsOf(registry)
	for _, line := range lines {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("no %s in\n%s", line, out)
		}
	}
}
