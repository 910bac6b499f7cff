package bootstrap

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

const accountToken = "the token of the service account"

// kube is as much of the Kubernetes API as the command uses: the Secrets of one namespace. The real
// one is in the tests of k8s.
type kube struct {
	mu      sync.Mutex
	secrets map[string]map[string][]byte
	// on, if set, may answer a request in the place of the API.
	on func(w http.ResponseWriter, r *http.Request) bool
}

func (k *kube) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const path = "/api/v1/namespaces/edge/secrets"
	if k.on != nil && k.on(w, r) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, path), "/")
	switch {
	case r.Header.Get("Authorization") != "Bearer "+accountToken || !strings.HasPrefix(r.URL.Path, path):
		problem(w, http.StatusForbidden, "secrets is forbidden")
	case r.Method == http.MethodGet && k.secrets[name] == nil:
		problem(w, http.StatusNotFound, "not found")
	case r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Secret", "data": k.secrets[name]})
	case r.Method == http.MethodPost:
		var s secret
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil || s.Kind != "Secret" || s.Metadata.Namespace != "edge" {
			problem(w, http.StatusBadRequest, "no Secret")
		} else if k.secrets[s.Metadata.Name] != nil {
			problem(w, http.StatusConflict, "already exists")
		} else {
			k.secrets[s.Metadata.Name] = s.Data
			w.WriteHeader(http.StatusCreated)
		}
	}
}

func problem(w http.ResponseWriter, code int, message string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "message": message})
}

// pod makes the environment of a pod whose API is k, and returns the folder of its account.
func pod(t *testing.T, k *kube) string {
	t.Helper()
	server := httptest.NewTLSServer(k)
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(at.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"token": []byte(accountToken + "\n"), "namespace": []byte("edge"),
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fixture is a pod, its API and a store.
type fixture struct {
	*options
	kube    *kube
	cluster *cluster
	manager *admin.Manager
	client  redis.UniversalClient
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		options: &options{api: "pictify", team: "platform", name: "admin", secret: "first"},
		kube:    &kube{secrets: map[string]map[string][]byte{}}, client: keystest.NewEmbedded(t),
	}
	var err error
	if f.cluster, err = inCluster(pod(t, f.kube)); err != nil {
		t.Fatal(err)
	}
	f.manager = admin.NewManager(store.New(f.client), keys.NewHasher(nil), nil, audit.New(f.client, 0), roles.Actor{Name: "job", Operator: true}, keystest.Noon)
	return f
}

func (f *fixture) do(t *testing.T) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := f.run(t.Context(), f.cluster, f.manager, &out)
	for _, text := range []string{out.String(), fmt.Sprint(err)} {
		if strings.Contains(text, store.TokenPrefix) || strings.Contains(text, accountToken) {
			t.Errorf("a token is printed: %s", text)
		}
	}
	return out.String(), err
}

func (f *fixture) members(t *testing.T) []*store.Member {
	t.Helper()
	all, err := f.manager.Members(t.Context(), f.api, f.team)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The first run makes team, admin and Secret; whatever follows makes nothing.
func TestOnce(t *testing.T) {
	f := newFixture(t)
	out, err := f.do(t)
	if err != nil || !strings.Contains(out, "made the admin admin (mem_") {
		t.Fatalf("%s, %v", out, err)
	}
	made := f.kube.secrets["first"]
	member, err := store.New(f.client).MemberByToken(t.Context(), string(made["token"]))
	if err != nil || member.Role != roles.Admin || member.ID != string(made["member"]) || member.Team != "platform" || string(made["api"]) != "pictify" {
		t.Errorf("%+v, %v, %v", member, err, made)
	}
	for range 3 {
		if out, err := f.do(t); err != nil || !strings.Contains(out, "nothing to do") {
			t.Errorf("%s, %v", out, err)
		}
	}
	if n := len(f.members(t)); n != 1 {
		t.Errorf("%d members", n)
	}
}

// A lost Secret is said, with what to do, and doing that brings a new one.
func TestLostSecret(t *testing.T) {
	f := newFixture(t)
	if _, err := f.do(t); err != nil {
		t.Fatal(err)
	}
	delete(f.kube.secrets, "first")
	_, err := f.do(t)
	id := f.members(t)[0].ID
	if want := "tollgate members remove " + id + " --api pictify --team platform"; err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("got %v, want %s", err, want)
	}
	if len(f.kube.secrets) > 0 || len(f.members(t)) != 1 {
		t.Error("something was made")
	}
	if err := f.manager.RemoveMember(t.Context(), f.api, f.team, id); err != nil {
		t.Fatal(err)
	}
	if _, err := f.do(t); err != nil || f.kube.secrets["first"] == nil {
		t.Errorf("again: %v", err)
	}
}

// A Secret for something else, such as the pepper's, is not taken for the one with the token.
func TestSecretIsForSomethingElse(t *testing.T) {
	f := newFixture(t)
	f.kube.secrets["first"] = map[string][]byte{"pepper": []byte("of the keys")}
	if out, err := f.do(t); err == nil || !strings.Contains(err.Error(), "first is there, but has no token") || out != "" {
		t.Errorf("%s, %v", out, err)
	}
	if len(f.kube.secrets["first"]) != 1 {
		t.Error("the Secret was changed")
	}
}

// The Secret outlives its store: helm uninstall leaves it, and the volume of the store may go.
func TestSecretIsOfAnotherStore(t *testing.T) {
	f := newFixture(t)
	if _, err := f.do(t); err != nil {
		t.Fatal(err)
	}
	f.manager = admin.NewManager(store.New(keystest.NewEmbedded(t)), keys.NewHasher(nil), nil, audit.New(f.client, 0), roles.Actor{Name: "job", Operator: true}, keystest.Noon)
	if out, err := f.do(t); err == nil || !strings.Contains(err.Error(), "no team platform of api pictify") || !strings.Contains(err.Error(), "delete the Secret") || out != "" {
		t.Errorf("%s, %v", out, err)
	}
	delete(f.kube.secrets, "first")
	if _, err := f.do(t); err != nil || f.kube.secrets["first"] == nil {
		t.Errorf("again: %v", err)
	}
}

// A pod that is told to end before the Secret is made takes its member out again.
func TestToldToEnd(t *testing.T) {
	f := newFixture(t)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	f.kube.on = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the connection end
			end()
			<-r.Context().Done()
		}
		return r.Method == http.MethodPost
	}
	var out bytes.Buffer
	if err := f.run(ctx, f.cluster, f.manager, &out); err == nil || strings.Contains(err.Error(), "not known") {
		t.Errorf("%s, %v", out.String(), err)
	}
	if n := len(f.members(t)); n != 0 {
		t.Errorf("%d members", n)
	}
}

// A team that is there keeps its other members.
func TestTeamIsThere(t *testing.T) {
	f := newFixture(t)
	if _, err := f.manager.CreateTeam(t.Context(), "pictify", "platform"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.manager.AddMember(t.Context(), "pictify", "platform", "ann", roles.Editor); err != nil {
		t.Fatal(err)
	}
	if _, err := f.do(t); err != nil || len(f.members(t)) != 2 {
		t.Errorf("%v, %d members", err, len(f.members(t)))
	}
}

// Of two runs at once one makes the Secret, and the member of the other goes again.
func TestTwoAtOnce(t *testing.T) {
	f := newFixture(t)
	f.kube.on = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			f.kube.secrets["first"] = map[string][]byte{"token": []byte("of the other run")}
		}
		return false
	}
	if out, err := f.do(t); err != nil || !strings.Contains(out, "there by now") {
		t.Errorf("%s, %v", out, err)
	}
	if n := len(f.members(t)); n != 0 {
		t.Errorf("%d members", n)
	}
}

// A Secret that cannot be made leaves no member whose token nobody has.
func TestSecretIsRefused(t *testing.T) {
	f := newFixture(t)
	f.kube.on = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			problem(w, http.StatusForbidden, "exceeded quota")
		}
		return r.Method == http.MethodPost
	}
	if _, err := f.do(t); err == nil || !strings.Contains(err.Error(), "does not let this create the Secret edge/first: 403, exceeded quota") {
		t.Errorf("got %v", err)
	}
	if n := len(f.members(t)); n != 0 {
		t.Errorf("%d members", n)
	}
}

// The Secret is made, but the answer is lost: it is found, and nothing is undone.
func TestLostAnswer(t *testing.T) {
	f := newFixture(t)
	f.kube.on = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		var s secret
		_ = json.NewDecoder(r.Body).Decode(&s)
		f.kube.secrets[s.Metadata.Name] = s.Data
		problem(w, http.StatusGatewayTimeout, "timeout")
		return true
	}
	if out, err := f.do(t); err != nil || !strings.Contains(out, "made the admin") || len(f.members(t)) != 1 {
		t.Errorf("%s, %v", out, err)
	}
}

// Nothing is known of the Secret: then it is said what to look at.
func TestNothingIsKnown(t *testing.T) {
	f := newFixture(t)
	posted := false
	f.kube.on = func(w http.ResponseWriter, r *http.Request) bool {
		posted = posted || r.Method == http.MethodPost
		if posted {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return posted
	}
	_, err := f.do(t)
	if err == nil || !strings.Contains(err.Error(), "remove the member "+f.members(t)[0].ID) {
		t.Errorf("got %v", err)
	}
}

// The account's token goes to the API alone.
func TestNoRedirects(t *testing.T) {
	f := newFixture(t)
	f.kube.on = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "https://example.com/", http.StatusFound)
		return true
	}
	if _, err := f.do(t); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("got %v", err)
	}
}

func TestOutsideOfAPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := inCluster(t.TempDir()); err == nil || !strings.Contains(err.Error(), "runs in a pod") {
		t.Errorf("got %v", err)
	}
	dir := pod(t, &kube{})
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := inCluster(dir); err == nil || !strings.Contains(err.Error(), "holds no PEM certificate") {
		t.Errorf("got %v", err)
	}
	if _, err := inCluster(t.TempDir()); err == nil || !strings.Contains(err.Error(), "--service-account: ") {
		t.Errorf("got %v", err)
	}
	for _, o := range []options{{}, {api: "a", team: "t", name: "n"}} {
		if err := o.check(); err == nil || !strings.Contains(err.Error(), "is missing") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

var _ members = (*admin.Manager)(nil)

func TestStoreIsAway(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := f.run(ctx, f.cluster, f.manager, &out); err == nil || out.Len() > 0 {
		t.Errorf("%s, %v", out.String(), err)
	}
}
