package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
)

const statesPolicy = `
api: states
hosts: [states.test]
credentials: [bearer]
key_format: {prefixes: [pb_], checksum: required}
stale_for: STALE
routes:
- {name: item, match: "GET /item", scope: none}
- {name: open, match: "GET /open", public: true}
plans:
- {name: closed, limits: [{name: minute, requests: 40, per: minute}]}
- {name: free, failure_mode: FREE, limits: [{name: minute, requests: 40, per: minute}]}
errors:
  dialect: nested
  answers:
  - {on: [missing_credential, malformed_credential, unknown_key, revoked_key, wrong_environment, inactive_key, expired_key], status: 401, code: unauthorized, message: No.}
  - {on: [address_denied, scope_denied, route_denied], status: 403, code: forbidden, message: Not this.}
  - {on: [rate_limited, quota_exceeded], status: 429, code: slow_down, message: Too fast.}
  - {on: [undecided], status: 503, code: undecided, message: Not now.}
`

// standingState is a row of the table of the page: what becomes of the store, before a server
// starts or afterwards.
type standingState struct {
	pepper      string // of the keys; "" for the server's
	stale, free string
	before      func(*stateServer)
	after       func(*stateServer)
	readyz      string // says this then
}

// states are the rows, by how they begin.
func states() map[string]standingState {
	config := func(name, value string) func(*stateServer) {
		return func(s *stateServer) { s.must(s.redis.ConfigSet(s.Context(), name, value).Err()) }
	}
	// The first server of a rollout that changes the pepper does this.
	pepper := func(s *stateServer) {
		next := keys.NewHasher([]byte("next"), keys.Method{Pepper: []byte("pepper")})
		state, err := standing.New(s.redis, next, standing.Options{}).Look(s.Context())
		if err != nil || !state.Adopted {
			s.Fatalf("%v, %+v", err, state)
		}
	}
	away := func(s *stateServer) { s.redis.ShutdownNoSave(s.Context()) }
	return map[string]standingState{
		"answers":                              {readyz: "key changes: listening"},
		"has not been reached since the start": {before: away, readyz: "the store has not been reached since the start"},
		"is not what the URL says":             {before: func(s *stateServer) { s.url = "redis+cluster://127.0.0.1:" + s.port }, readyz: "cluster support disabled"},
		"has keys with another pepper than this server was started with": {pepper: "other", readyz: "hashed with another pepper"},
		"has got the check of another pepper since this server started":  {after: pepper, readyz: "what it does not find is undecided"},
		"was emptied": {after: func(s *stateServer) { s.must(s.redis.FlushAll(s.Context()).Err()) }, readyz: "accept-empty"},
		"was restarted without its data": {after: func(s *stateServer) {
			away(s)
			s.startRedis()
		}, readyz: "accept-empty"},
		"is away":                                 {after: away, readyz: "store: not reachable, last heard"},
		"is away for longer than any":             {stale: "2s", after: away, readyz: "away for longer than any key is served without it"},
		"takes no writes":                         {after: config("maxmemory", "1"), readyz: "takes no writes: OOM"},
		"has taken no writes for 10 s, and every": {free: "closed", before: config("maxmemory", "1"), readyz: "takes no writes, and by every plan"},
		"drops keys when its memory is full":      {before: config("maxmemory-policy", "allkeys-lru"), readyz: "maxmemory-policy allkeys-lru"},
		"does not let its user see whether it does so": {before: func(s *stateServer) {
			s.must(s.redis.Do(s.Context(), "acl", "setuser", "default", "-info").Err())
		}, readyz: "its user may not see"},
		"does not let its user count": {free: "closed", before: func(s *stateServer) {
			s.must(s.redis.Do(s.Context(), "acl", "setuser", "default", "-hset").Err())
		}, readyz: "its user may not spend"},
		"does not let its user read keys": {before: func(s *stateServer) {
			s.must(s.redis.Do(s.Context(), "acl", "setuser", "default", "resetkeys", "~tg:v1:[^ks]*", "~tg:v1:s[^e]*").Err())
		}, readyz: "its user may not lookup"},
		"answers, and the server is told to end": {after: func(s *stateServer) { s.must(s.cmd.Process.Signal(os.Interrupt)) }, readyz: "draining"},
	}
}

// Every cell of the table in the page is what a server does.
func TestStatesOfTheStore(t *testing.T) {
	redistest.Need(t)
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	all, rows := states(), 0
	for _, row := range regexp.MustCompile(`(?m)^\| the store ([^|]+?) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$`).FindAllStringSubmatch(string(page), -1) {
		found := ""
		for begins := range all {
			if strings.HasPrefix(row[1], begins) && len(begins) > len(found) {
				found = begins
			}
		}
		if found == "" {
			t.Errorf("no test of %q", row[1])
			continue
		}
		rows++
		t.Run(found, func(t *testing.T) {
			t.Parallel()
			all[found].check(t, row[2:])
		})
	}
	if rows != len(all) {
		t.Errorf("the page has %d rows, the test %d", rows, len(all))
	}
}

// check runs a server into the state and compares the cells: readyz and health, livez, a key in
// memory, another key, an unknown key.
func (c standingState) check(t *testing.T, cells []string) {
	s := newStateServer(t)
	secrets := s.seed(cmp.Or(c.pepper, "pepper"))
	if c.before != nil {
		c.before(s)
	}
	s.serve(strings.NewReplacer("STALE", cmp.Or(c.stale, "5m"), "FREE", cmp.Or(c.free, "open")).Replace(statesPolicy))
	if c.before == nil && c.pepper == "" {
		eventually(t, "it listens", func() bool { _, text := s.page("/readyz"); return strings.Contains(text, "key changes: listening") })
		for _, plan := range []string{"closed", "free"} {
			if code := s.ask("/item", secrets[plan+" 1"]); code != 200 {
				t.Fatalf("%s before: %d", plan, code)
			}
		}
	}
	if c.after != nil {
		c.after(s)
	}
	want := map[string]int{"ok": 200, "not ready": 503}[cells[0]]
	eventually(t, fmt.Sprint("/readyz ", want, " ", c.readyz), func() bool {
		code, text := s.page("/readyz")
		return code == want && regexp.MustCompile(c.readyz).MatchString(text)
	})
	eventually(t, "health", func() bool {
		got, err := healthv1.NewHealthClient(s.conn).Check(s.Context(), &healthv1.HealthCheckRequest{})
		return err == nil && (got.GetStatus() == healthv1.HealthCheckResponse_SERVING) == (want == 200)
	})
	if code, _ := s.page("/livez"); cells[1] != "ok" || code != 200 {
		t.Errorf("/livez: %d, want %s", code, cells[1])
	}
	for i, n := range []string{" 1", " 2"} {
		for _, plan := range []string{"closed", "free"} {
			s.expect("key"+n+" of plan "+plan, cells[2+i], plan == "free", secrets[plan+n])
		}
	}
	s.expect("an unknown key", cells[4], true, keys.NewSecret("pb_"))
	if code := s.ask("/open", ""); code != 200 {
		t.Errorf("a public route: %d", code)
	}
}

// stateServer is a server and its Redis.
type stateServer struct {
	*testing.T
	dir, port, url string
	redis          *redis.Client
	cmd            *exec.Cmd
	conn           *grpc.ClientConn
	http           string
}

func newStateServer(t *testing.T) *stateServer {
	s := &stateServer{T: t, dir: tollgatetest.ShortDir(t), port: redistest.FreePort(t)}
	s.url = "redis://127.0.0.1:" + s.port
	s.startRedis()
	return s
}

func (s *stateServer) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *stateServer) startRedis() {
	s.redis = redistest.Start(s.T, func(*redistest.Server) []string { return []string{"--port", s.port} }).Admin
}

// seed makes the store one of servers with the pepper, with two keys of each plan.
func (s *stateServer) seed(pepper string) (secrets map[string]string) {
	h, secrets, all := keys.NewHasher([]byte(pepper)), map[string]string{}, []*keys.Key(nil)
	_, err := standing.New(s.redis, h, standing.Options{}).Look(s.Context())
	s.must(err)
	for _, plan := range []string{"closed", "free"} {
		for n := range 2 {
			secret, id := keys.NewSecret("pb_"), fmt.Sprintf("key_%s%d", plan, n+1)
			secrets[fmt.Sprintf("%s %d", plan, n+1)] = secret
			all = append(all, &keys.Key{ID: id, API: "states", Name: "n", Plan: plan, LimitID: id, Status: keys.Active, Version: 1, AnchorDay: 1,
				Algorithm: keys.AlgorithmHMACSHA256, Digest: h.Digest(secret)})
		}
	}
	for _, err := range store.New(s.redis).CreateAll(s.Context(), all) {
		s.must(err)
	}
	return secrets
}

func (s *stateServer) serve(policy string) {
	tollgatetest.WriteFile(s.T, filepath.Join(s.dir, "policy.yaml"), []byte(policy))
	tollgatetest.WriteFile(s.T, filepath.Join(s.dir, "pepper"), []byte("pepper"))
	addresses, log := filepath.Join(s.dir, "addresses"), &tollgatetest.Screen{}
	s.cmd = exec.Command("tollgate", "serve", "--policy", filepath.Join(s.dir, "policy.yaml"), "--pepper-file", filepath.Join(s.dir, "pepper"),
		"--store", s.url, "--deadline", "1s", "--drain-delay", "1m",
		"--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--addresses-file", addresses)
	s.cmd.Stderr = log
	s.must(s.cmd.Start())
	s.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if s.Failed() {
			s.Log(log.String())
		}
	})
	var chosen struct{ GRPC, HTTP string }
	eventually(s.T, "the server", func() bool {
		data, err := os.ReadFile(addresses)
		return err == nil && json.Unmarshal(data, &chosen) == nil
	})
	conn, err := grpc.NewClient(chosen.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.must(err)
	s.Cleanup(func() { _ = conn.Close() })
	s.conn, s.http = conn, chosen.HTTP
}

func (s *stateServer) page(path string) (code int, text string) {
	s.Helper()
	response, err := http.Get("http://" + s.http + path)
	s.must(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	s.must(err)
	return response.StatusCode, string(body)
}

// ask returns the status that a request gets.
func (s *stateServer) ask(path, secret string) int {
	s.Helper()
	r := &authv3.AttributeContext_HttpRequest{Host: "states.test", Method: "GET", Path: path}
	if secret != "" {
		r.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "authorization", RawValue: []byte("Bearer " + secret)}}}
	}
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	response, err := authv3.NewAuthorizationClient(s.conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: r},
	}})
	s.must(err)
	if response.GetOkResponse() != nil {
		return 200
	}
	return int(response.GetDeniedResponse().GetStatus().GetCode())
}

// expect compares an answer with a cell.
func (s *stateServer) expect(what, cell string, open bool, secret string) {
	s.Helper()
	want := 0
	switch word, _, _ := strings.Cut(cell, ","); word {
	case "–":
		return // there is none
	case "200":
		want = 200
	case "401":
		want = 401
	case "undecided":
		want = 503
	case "by `failure_mode`":
		want = 503
		if open {
			want = 200
		}
	default:
		s.Errorf("%s: what does %q mean?", what, cell)
	}
	if got := s.ask("/item", secret); got != want {
		s.Errorf("%s: %d, want %s", what, got, cell)
	}
}
