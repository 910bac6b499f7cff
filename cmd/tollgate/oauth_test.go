package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/oauth/oauthtest"
)

const jobsAudience = "https://jobs.example.com"

// withTokens is testdata/small.yaml with an issuer of access tokens.
func withTokens(t *testing.T, issuer, more string) []byte {
	t.Helper()
	return []byte(strings.NewReplacer(
		"{header: X-API-Key}]", fmt.Sprintf("{header: X-API-Key}, {oauth2: {issuer: %q, audience: [%s], plan: free%s}}]", issuer, jobsAudience, more),
		"{name: submit}, {name: read}", "{name: text}, {name: image}", "scope: submit", "scope: image", "scope: read", "scope: text",
		"requests: 60,", "requests: 1000000,", "requests: 1000,", "requests: 1000000,",
		"[inactive_key, expired_key]", "[inactive_key, expired_key, invalid_token, expired_token]",
		"scope_denied, route_denied]", "scope_denied, insufficient_scope, route_denied]",
	).Replace(string(readFile(t, "../../testdata/small.yaml"))))
}

// edgeOf starts a server with a policy behind the shipped Envoy, in front of an application that
// echoes.
func edgeOf(t *testing.T, policy []byte) (edge *envoytest.Envoy, server *replica) {
	t.Helper()
	binary, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	application, err := envoytest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = application.Close() })
	dir := tollgatetest.ShortDir(t)
	server = &replica{file: dir + "/addresses", authz: "127.0.0.1:" + redistest.FreePort(t), policy: dir + "/policy.yaml"}
	tollgatetest.WriteFile(t, server.policy, policy)
	server.args = []string{"serve", "--policy", server.policy, "--store-socket", dir + "/store.sock", "--addresses-file", server.file,
		"--grpc-address", server.authz, "--http-address", "127.0.0.1:0", "--reload-interval", "50ms", "--deadline", "4s"}
	server.start(t)
	bootstrap, err := envoy.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	edge, err = envoytest.Start(t.Context(), envoytest.Settings{Binary: binary, Bootstrap: bootstrap, Upstream: application.Addr(), Tollgate: server.authz, CheckTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = edge.Stop() })
	return edge, server
}

// get asks with a token and returns the answer's status, its challenge and what the application
// has received.
func get(t *testing.T, edge *envoytest.Envoy, method, path, token string) (status int, challenge, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+edge.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "jobs.example.com"
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("Www-Authenticate"), string(text)
}

// An authorization server that nobody here wrote, and a real Envoy: a client gets a token and uses
// it; the server changes its key while requests come, takes the old one away, and is down.
func TestOAuthThroughEnvoy(t *testing.T) {
	provider := oauthtest.StartProvider(t, jobsAudience, "jwt")
	edge, server := edgeOf(t, withTokens(t, provider.URL, ""))
	token := provider.Token(t, "reports", "text")

	status, _, body := get(t, edge, "GET", "/v1/jobs/17", token)
	if status != 200 || !strings.Contains(strings.ToLower(body), "reports") || strings.Contains(body, token[:40]) {
		t.Fatalf("%d: %s\n%s", status, body, server.log)
	}
	status, challenge, _ := get(t, edge, "POST", "/v1/jobs", token)
	if status != 403 || challenge != `Bearer realm="jobs", error="insufficient_scope", scope="image"` {
		t.Errorf("another scope: %d, %s", status, challenge)
	}
	if status, challenge, _ = get(t, edge, "GET", "/v1/jobs/17", token[:len(token)-8]+"AAAAAAAA"); status != 401 || challenge != `Bearer realm="jobs", error="invalid_token"` {
		t.Errorf("forged: %d, %s", status, challenge)
	}

	statuses := rotate(t, provider, edge)
	if statuses[200] < 50 || len(statuses) != 1 {
		t.Errorf("while the issuer changed its key: %v", statuses)
	}

	fresh := provider.Token(t, "designer", "image")
	if status, _, _ := get(t, edge, "POST", "/v1/jobs", fresh); status != 200 {
		t.Errorf("the new key: %d", status)
	}
	second := provider.Token(t, "designer", "image") // never seen while the issuer is there
	provider.Stop()
	for name, token := range map[string]string{"known": fresh, "first used": second} {
		if status, _, _ := get(t, edge, "POST", "/v1/jobs", token); status != 200 {
			t.Errorf("%s, the issuer is down: %d", name, status)
		}
	}
	for _, secret := range []string{token, fresh, second} {
		if log := server.log.String(); strings.Contains(log, secret) || strings.Contains(log, strings.Split(secret, ".")[2]) {
			t.Error("the log holds a token")
		}
	}
}

// rotate changes the issuer's key in the middle of requests, each with a token of its own or one
// that was used before, and counts the answers.
func rotate(t *testing.T, provider *oauthtest.Provider, edge *envoytest.Envoy) map[int]int {
	t.Helper()
	statuses := map[int]int{}
	var mu sync.Mutex
	tokens := make(chan string, 8)
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for token := range tokens {
				for range 3 {
					status, _, _ := get(t, edge, "GET", "/v1/jobs/17", token)
					mu.Lock()
					statuses[status]++
					mu.Unlock()
				}
			}
		})
	}
	for n := range 40 {
		if n == 20 {
			provider.Command(t, "rotate")
		}
		tokens <- provider.Token(t, "reports", "text image")
	}
	close(tokens)
	clients.Wait()
	return statuses
}
