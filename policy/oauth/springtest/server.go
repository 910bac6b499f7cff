// Package springtest runs Spring Authorization Server, as AuthorizationServer.java configures it,
// for tests. .ci/spring builds it.
package springtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Audience is what all its tokens are for.
const Audience = "https://api.example.com"

// Server is a running authorization server.
type Server struct {
	Issuer  string // its URL
	process *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
}

// Require skips the test loudly where the server is not built, or fails it where TOLLGATE_REQUIRE
// has oauth-servers.
func Require(t testing.TB) {
	t.Helper()
	found, _ := filepath.Glob(jar())
	switch {
	case len(found) > 0:
	case slices.Contains(strings.Split(os.Getenv("TOLLGATE_REQUIRE"), ","), "oauth-servers"):
		t.Fatal("no Spring Authorization Server (.ci/spring)")
	default:
		t.Skip("SKIPPED, NOT TESTED: no Spring Authorization Server (make test-oauth-servers)")
	}
}

// jar is a pattern of the files that .ci/spring has built.
func jar() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../../.tools/spring-authorization-server-*/authorization-server.jar")
}

// Start starts a server. The caller has called Require.
func Start(t testing.TB) *Server {
	t.Helper()
	found, err := filepath.Glob(jar())
	if err != nil || len(found) == 0 {
		t.Fatal("no Spring Authorization Server", err)
	}
	cmd := exec.Command("java", "-jar", latest(t, found))
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Server{process: cmd, input: input, output: bufio.NewReader(output)}
	t.Cleanup(s.Stop)
	line, err := s.output.ReadBytes('\n')
	if err != nil || json.Unmarshal(line, s) != nil || s.Issuer == "" {
		t.Fatalf("the server says %q, %v", line, err)
	}
	return s
}

// latest is the file that was built last.
func latest(t testing.TB, files []string) string {
	t.Helper()
	built := func(file string) time.Time {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	return slices.MaxFunc(files, func(a, b string) int { return built(a).Compare(built(b)) })
}

// Stop ends the server. It is done at the end of the test anyway.
func (s *Server) Stop() {
	_ = s.input.Close()
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// Rotate gives the server another key. Those before stay among its public keys.
func (s *Server) Rotate(t testing.TB) {
	t.Helper()
	_, err := fmt.Fprintln(s.input, "rotate")
	if err == nil {
		_, err = s.output.ReadString('\n')
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Token gets an access token of a client, by its credentials.
func (s *Server) Token(t testing.TB, client, scope string) string {
	t.Helper()
	var got struct {
		Token string `json:"access_token"`
	}
	body := s.post(t, "/oauth2/token", client, url.Values{"grant_type": {"client_credentials"}, "scope": {scope}})
	if err := json.Unmarshal(body, &got); err != nil || got.Token == "" {
		t.Fatalf("no token: %v", err)
	}
	return got.Token
}

// Revoke has a client's token revoked.
func (s *Server) Revoke(t testing.TB, client, token string) {
	t.Helper()
	s.post(t, "/oauth2/revoke", client, url.Values{"token": {token}})
}

func (s *Server) post(t testing.TB, path, client string, form url.Values) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(client, client+"-secret")
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v: %s", path, reply.StatusCode, err, body)
	}
	return body
}
