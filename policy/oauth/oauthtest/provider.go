package oauthtest

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

//go:embed oidc-provider.mjs
var program []byte

// module is where make test-oauth puts npm's oidc-provider, from the root of the repository.
const module = ".tools/oidc-provider-9/node_modules"

// Provider is an authorization server that nobody here has written: npm's oidc-provider, which is
// OpenID Certified.
type Provider struct {
	URL string // its identifier

	commands io.WriteCloser
	answers  *bufio.Reader
	process  *exec.Cmd
}

// StartProvider starts one whose tokens are for an audience, jwt or opaque. With ASKING_KEY=JWK in
// env a client tollgate-key is known by that public key. Without Node or the module it skips the
// test, loudly, or fails it where TOLLGATE_REQUIRE names oauth.
func StartProvider(t *testing.T, audience, format string, env ...string) *Provider {
	t.Helper()
	modules, err := modules()
	if err == nil {
		_, err = exec.LookPath("node")
	}
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("TOLLGATE_REQUIRE"), ","), "oauth") {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED, NOT TESTED: no oidc-provider (make test-oauth): %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "provider.mjs"), program, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	p := &Provider{process: exec.Command("node", filepath.Join(dir, "provider.mjs"))}
	p.process.Env = append(append(os.Environ(), "AUDIENCE="+audience, "FORMAT="+format, "NODE_ENV=production"), env...)
	commands, err := p.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := p.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.commands, p.answers = commands, bufio.NewReader(answers)
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	p.URL = "http://127.0.0.1:" + p.line(t)
	return p
}

// modules finds the module above the folder of the test.
func modules() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", os.ErrNotExist
		}
		dir = filepath.Dir(dir)
	}
	found := filepath.Join(dir, module)
	_, err = os.Stat(filepath.Join(found, "oidc-provider"))
	return found, err
}

// line is the next line that the process says.
func (p *Provider) line(t testing.TB) string {
	t.Helper()
	line, err := p.answers.ReadString('\n')
	if err != nil {
		t.Fatalf("oidc-provider: %v", err)
	}
	return strings.TrimSpace(line)
}

// Command has it do something: rotate makes a new key and keeps the old one published, drop takes
// the old one away.
func (p *Provider) Command(t testing.TB, word string) {
	t.Helper()
	if _, err := io.WriteString(p.commands, word+"\n"); err != nil {
		t.Fatal(err)
	}
	if got := p.line(t); got != word {
		t.Fatalf("oidc-provider: %q", got)
	}
}

// Stop ends it, as an issuer that is down.
func (p *Provider) Stop() {
	_ = p.process.Process.Kill()
	_ = p.process.Wait()
}

// ClientSecret is that of one of its clients: reports, with the scopes text and image, designer,
// with image, and tollgate.
func ClientSecret(client string) string { return "secret-of-" + client + "-which-is-long-enough" }

// Token gets a token by the client's credentials (RFC 6749 section 4.4).
func (p *Provider) Token(t testing.TB, client, scope string) string {
	t.Helper()
	var answer struct {
		Token string `json:"access_token"`
		Error string `json:"error_description"`
	}
	p.post(t, "/token", client, url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}, &answer)
	if answer.Token == "" {
		t.Fatalf("no token for %s: %s", client, answer.Error)
	}
	return answer.Token
}

// Revoke revokes a token (RFC 7009).
func (p *Provider) Revoke(t testing.TB, client, token string) {
	t.Helper()
	p.post(t, "/token/revocation", client, url.Values{"token": {token}}, nil)
}

func (p *Provider) post(t testing.TB, path, client string, form url.Values, answer any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(client, ClientSecret(client))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if answer == nil {
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d", path, resp.StatusCode)
		}
		return
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		t.Fatalf("%s: %d: %v", path, resp.StatusCode, err)
	}
}
