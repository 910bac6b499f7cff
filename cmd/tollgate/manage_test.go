package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/cmd/tollgate/cli"
	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy/envoytest"
	"tollgate/policy/connect/redistest"
)

// managed is a tollgate manage that runs as its own user of a Redis.
type managed struct{ url, token string }

// startManage starts it, with a token of an admin of a new team of pixelmagic.
func startManage(t *testing.T, server *redistest.Server, policy string) *managed {
	t.Helper()
	server.AddUser(t, "manage", cli.ACLs()["manage"].Rules())
	operator := []string{"--store", "unix://" + server.Socket, "--policy", policy}
	m := &managed{}
	for _, args := range [][]string{
		{"teams", "create", "orbit", "--api", "pixelmagic"}, {"teams", "set-plans", "orbit", "free", "--api", "pixelmagic"},
		{"members", "add", "ann", "--api", "pixelmagic", "--team", "orbit", "--role", "admin", "-o", "json"},
	} {
		code, out, stderr := command(t, append(args, operator...)...)
		if code != exit.CodeOK {
			t.Fatalf("%v: %s", args, stderr)
		}
		var made struct{ Token string }
		_ = json.Unmarshal([]byte(out), &made)
		m.token = made.Token
	}
	file := filepath.Join(tollgatetest.ShortDir(t), "address")
	cmd := exec.Command("tollgate", "manage", "--policy", policy, "--store", "unix://manage:manage@"+server.Socket,
		"--manage-address", "127.0.0.1:0", "--addresses-file", file)
	log := &tollgatetest.Screen{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil || t.Failed() || strings.Contains(log.String(), m.token) {
			t.Errorf("tollgate manage: %v\n%s", err, log.String())
		}
	})
	var chosen struct{ Manage string }
	eventually(t, "tollgate manage", func() bool {
		data, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(data, &chosen) == nil
	})
	m.url = "http://" + chosen.Manage
	return m
}

// do sends a request as the admin and decodes the answer.
func (m *managed) do(t *testing.T, method, path, body string, want int, into any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, m.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+m.token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != want {
		t.Fatalf("%s %s: %d %s %v", method, path, answer.StatusCode, data, err)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
}

// A member with nothing but a token makes a key over HTTP and calls an API through Envoy with it;
// restricts it, rotates it and revokes it, and each counts for the next request.
func TestManagedKeyThroughEnvoy(t *testing.T) {
	binary, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	server := redistest.Start(t, redistest.SocketOnly)
	policy := bytes.Replace(readFile(t, "../../testdata/small.yaml"), []byte("api: jobs"), []byte("api: pixelmagic"), 1)
	edge, _ := outage{replicas: 1, balance: "ROUND_ROBIN", patient: true}.startOn(t, binary, server, policy)
	path := filepath.Join(tollgatetest.ShortDir(t), "policy.yaml")
	tollgatetest.WriteFile(t, path, policy)
	m := startManage(t, server, path)
	ask := func(secret string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+edge.Addr()+"/v1/jobs/17", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "jobs.example.com"
		r.Header.Set("X-API-Key", secret)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	// A message about a change arrives at once, but not in no time.
	becomes := func(what, secret string, status int) {
		t.Helper()
		eventually(t, what, func() bool { return ask(secret) == status })
	}
	var made, next struct {
		Key    struct{ ID string }
		Secret string
	}
	m.do(t, "POST", "/v1/keys", `{"name":"checkout","plan":"free","scopes":["read"]}`, 201, &made)
	if status := ask(made.Secret); status != 200 {
		t.Fatalf("a new key: %d", status)
	}
	if status := ask(m.token); status != 401 {
		t.Errorf("a member's token at the API's gateway: %d", status)
	}
	key := "/v1/keys/" + made.Key.ID
	m.do(t, "PATCH", key, `{"scopes":["submit"]}`, 200, nil)
	becomes("refused for its scopes", made.Secret, 403)
	m.do(t, "PATCH", key, `{"scopes":["read"]}`, 200, nil)
	becomes("allowed again", made.Secret, 200)
	m.do(t, "POST", key+"/rotate", `{"grace_seconds":3600}`, 201, &next)
	if first, second := ask(made.Secret), ask(next.Secret); first != 200 || second != 200 {
		t.Errorf("in the grace: %d and %d", first, second)
	}
	m.do(t, "POST", key+"/revoke", "", 200, nil)
	// A revocation is answered when every server has heard of it.
	if status := ask(made.Secret); status != 401 {
		t.Errorf("a revoked key: %d", status)
	}
	if status := ask(next.Secret); status != 200 {
		t.Errorf("the successor of a revoked key: %d", status)
	}
	m.do(t, "DELETE", key, "", 200, nil)
	m.do(t, "GET", key, "", 404, nil)
}

// What would let strangers listen, or is no setting, is refused before anything is opened.
func TestManageSettings(t *testing.T) {
	policy := "../../testdata/small.yaml"
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "give --policy FILE|DIR or TOLLGATE_POLICY"},
		{[]string{"--policy", policy, "--manage-address", "0.0.0.0:0"}, "in plain text; give --tls-cert, or --trusted-proxies"},
		{[]string{"--policy", policy, "--manage-address", ":0"}, "in plain text"},
		{[]string{"--policy", policy, "--manage-address", "[::]:0"}, "in plain text"},
		{[]string{"--policy", policy, "--manage-address", "example.com:0"}, "in plain text"},
		{[]string{"--policy", policy, "--manage-address", "0.0.0.0:0", "--trusted-proxies", ","}, "in plain text"},
		{[]string{"--policy", policy, "--manage-address", "9003"}, "is not HOST:PORT"},
		{[]string{"--policy", policy, "--trusted-proxies", "proxy"}, `"proxy" is neither an address nor a CIDR`},
		{[]string{"--policy", policy, "--tls-cert", "x"}, "give both"},
		{[]string{"--policy", policy, "--log-level", "loud"}, "--log-level"},
		{[]string{"--policy", policy, "--log-format", "xml"}, "--log-format"},
		{[]string{"--policy", policy, "--reload-interval", "0s"}, "--reload-interval"},
		{[]string{"--policy", "missing.yaml"}, "missing.yaml"},
		{[]string{"extra"}, "takes flags only"},
	} {
		code, out, stderr := command(t, append([]string{"manage"}, c.args...)...)
		if code != exit.CodeUsage || out != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: %d %q %q, want %q", c.args, code, out, stderr, c.want)
		}
	}
}
