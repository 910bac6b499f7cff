package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/standing"
	"tollgate/policy/keys/store"
	"tollgate/policy/manage/api"
	"tollgate/policy/manage/once"
	"tollgate/policy/policyfile"
	"tollgate/testdata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The teams of a world, and the id of nobody.
const (
	orbit  = "orbit"
	nova   = "nova"
	nobody = "nobody"
	noKey  = "key_AAAAAAAAAAAAAAAA"
)

// world is the API over HTTP on a real Redis, with two teams of pictify. Members are named
// TEAM/ROLE.
type world struct {
	t        *testing.T
	redis    redis.UniversalClient
	store    *store.Store
	set      *policy.Set
	operator *admin.Manager
	clock    *keystest.Clock
	log      *keystest.Lines
	url      string
	client   *http.Client
	tokens   map[string]string
	members  map[string]*store.Member
}

// newWorld starts it, with changes of its configuration.
func newWorld(t *testing.T, changes ...func(*api.Config)) *world {
	t.Helper()
	w := &world{
		t: t, redis: keystest.NewServer(t), clock: &keystest.Clock{}, log: &keystest.Lines{},
		tokens: map[string]string{}, members: map[string]*store.Member{},
	}
	text, err := testdata.File("pictify", "policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if w.set, err = policyfile.Compile(policyfile.File{Name: "policy.yaml", Data: text}); err != nil {
		t.Fatal(err)
	}
	w.store = store.New(w.redis)
	hasher := keys.NewHasher([]byte("pepper"))
	// A server says first whose pepper the store's keys are hashed with.
	if _, err := standing.New(w.redis, hasher, standing.Options{}).Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.operator = admin.NewManager(w.store, hasher, w.set, audit.New(w.redis, 0), roles.Actor{Name: "ops", Operator: true}, w.clock.Now)
	for _, team := range []string{orbit, nova} {
		keystest.Must[*store.Team](t)(w.operator.CreateTeam(t.Context(), "pictify", team, "free", "pro"))
		for _, role := range []roles.Role{roles.Admin, roles.Editor, roles.Viewer} {
			m, token, err := w.operator.AddMember(t.Context(), "pictify", team, string(role)+"@"+team, role)
			if err != nil {
				t.Fatal(err)
			}
			w.members[team+"/"+string(role)], w.tokens[team+"/"+string(role)] = m, token
		}
	}
	check := func(ctx context.Context) error { return standing.CheckPepper(ctx, w.redis, hasher) }
	c := api.Config{
		Store: w.store, Audit: audit.New(w.redis, 0), Hasher: hasher, Once: once.New(w.redis), Rules: func() keys.Rules { return w.set },
		CheckPepper: check, Ready: check, Log: slog.New(slog.NewTextHandler(w.log, nil)), Now: w.clock.Now,
	}
	for _, change := range changes {
		change(&c)
	}
	server := httptest.NewServer(api.New(c))
	t.Cleanup(server.Close)
	w.url, w.client = server.URL, server.Client()
	return w
}

// reply is an answer of the API.
type reply struct {
	t      *testing.T
	status int
	header http.Header
	body   string
}

// send sends a request as a member, with "Name: value" headers.
func (w *world) send(who, method, path, body string, headers ...string) *reply {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token := w.tokens[who]; token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	answer, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return &reply{w.t, answer.StatusCode, answer.Header, string(data)}
}

// want fails the test unless the answer has this status and, if it is a problem, this code.
func (r *reply) want(status int, code string) *reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	if code == "" {
		return r
	}
	var p api.Problem
	r.read(&p)
	if p.Code != code || p.Status != status || p.Type != "/problems/"+code || p.Title == "" || p.RequestID == "" ||
		p.RequestID != r.header.Get("X-Request-Id") || r.header.Get("Content-Type") != "application/problem+json" {
		r.t.Fatalf("want %s, got %s %s", code, r.header.Get("Content-Type"), r.body)
	}
	return r
}

// read decodes the body, which has no other fields.
func (r *reply) read(into any) {
	r.t.Helper()
	d := json.NewDecoder(bytes.NewReader([]byte(r.body)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		r.t.Fatalf("%v: %s", err, r.body)
	}
}

// made makes a key as a member and returns it.
func (w *world) made(who, body string) (k api.MadeKey) {
	w.t.Helper()
	w.send(who, "POST", "/v1/keys", body).want(http.StatusCreated, "").read(&k)
	return k
}

// entries returns the audit stream, oldest first.
func (w *world) entries() []audit.Entry {
	w.t.Helper()
	all, _, err := w.operator.ReadAudit(w.t.Context(), "", 1000, audit.OldestFirst)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// liveKey is a key that a member may make.
const liveKey = `{"name":"checkout","environment":"live","plan":"free"}`

// pause is longer than what a throttle of failed log-ins keeps one waiting.
const pause = time.Minute

// dump is all that the store holds.
func (w *world) dump() string {
	w.t.Helper()
	var b strings.Builder
	all := keystest.Dump(w.t, w.redis)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b.WriteString(name + " " + all[name] + "\n")
	}
	return b.String()
}
