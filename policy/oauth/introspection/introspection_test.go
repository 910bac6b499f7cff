package introspection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tollgate/policy/connect/redistest"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/oauthtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock moves by hand only.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_800_000_000, 0).Add(time.Duration(c.at.Load())) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// server is an issuer that answers as a test says.
type server struct {
	*httptest.Server
	calls  atomic.Int64
	answer atomic.Pointer[func(w http.ResponseWriter, r *http.Request)]
}

func startServer(t *testing.T) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// does has the server answer every call so from now on.
func (s *server) does(f func(w http.ResponseWriter, r *http.Request)) { s.answer.Store(&f) }

// says has it answer with this JSON.
func (s *server) says(body string) {
	s.does(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body))
	})
}

// fixture is an Asker, with a policy that names the server as issuer.
type fixture struct {
	*Asker
	*server
	clock  *clock
	issuer *oauth.Issuer
	log    *strings.Builder // read after the calls are over
}

func newFixture(t *testing.T, edits ...func(*Options)) *fixture {
	f := &fixture{server: startServer(t), clock: &clock{}, log: &strings.Builder{}}
	o := Options{Now: f.clock.now, Timeout: 20 * time.Second, Log: slog.New(slog.NewTextHandler(f.log, nil))}
	for _, edit := range edits {
		edit(&o)
	}
	f.Asker = New(o)
	t.Cleanup(f.Asker.Close)
	t.Cleanup(f.server.CloseClientConnections)
	t.Cleanup(f.Asker.options.Client.CloseIdleConnections)
	f.issuer = &oauth.Issuer{
		API: "pixelmagic", URL: "https://as.example.com", Audiences: []string{"https://api.example.com"}, Leeway: 30 * time.Second,
		ClientClaim: "client_id", ScopeClaim: "scope", Plan: "free",
		Introspection: &oauth.Introspection{Endpoint: f.server.URL, ClientID: "tollgate", SecretFile: file(t, "s3cret+/=%\n"), MaxAge: time.Minute},
	}
	return f
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credential")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// claims are those of a good answer, as JSON; edits change it.
func (f *fixture) claims(edits ...func(map[string]any)) string {
	c := map[string]any{
		"active": true, "iss": "https://as.example.com", "aud": "https://api.example.com", "client_id": "web", "scope": "text image",
		"token_type": "Bearer", "exp": f.clock.now().Add(time.Hour).Unix(),
	}
	for _, edit := range edits {
		edit(c)
	}
	data, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func with(name string, value any) func(map[string]any) {
	return func(c map[string]any) { c[name] = value }
}

func without(name string) func(map[string]any) { return func(c map[string]any) { delete(c, name) } }

func (f *fixture) ask(t *testing.T, token string) (*oauth.Token, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return f.Introspect(ctx, f.issuer, token)
}

func (f *fixture) allows(t *testing.T, token string) {
	t.Helper()
	if got, err := f.ask(t, token); err != nil || got.Client != "web" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func isRefused(err error) bool {
	var refused *oauth.RefusedError
	return errors.As(err, &refused)
}

func isUndecided(err error) bool {
	var undecided *oauth.UndecidedError
	return errors.As(err, &undecided)
}

// What is sent is what RFC 7662 section 2.1 and RFC 6749 section 2.3.1 say.
func TestWhatIsAsked(t *testing.T) {
	f := newFixture(t)
	var seen http.Request
	f.does(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		seen = *r
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		_, _ = w.Write([]byte(f.claims()))
	})
	got, err := f.ask(t, "opaque-1+/=")
	if err != nil {
		t.Fatal(err)
	}
	if got.Client != "web" || strings.Join(got.Scopes, " ") != "text image" || !got.ExpiresAt.Equal(f.clock.now().Add(time.Hour)) || got.Issuer != f.issuer {
		t.Errorf("%+v", got)
	}
	user, password, _ := seen.BasicAuth()
	if seen.Method != "POST" || user != "tollgate" || password != "s3cret%2B%2F%3D%25" || seen.PostForm.Get("token") != "opaque-1+/=" ||
		seen.PostForm.Get("token_type_hint") != "access_token" || len(seen.PostForm) != 2 || seen.Header.Get("Accept") != "application/json" {
		t.Errorf("%s %q %q %v", seen.Method, user, password, seen.PostForm)
	}
}

// An answer counts until the token's end or max_age, whichever comes first.
func TestAnswersAreKept(t *testing.T) {
	f := newFixture(t)
	f.says(f.claims())
	for range 3 {
		f.allows(t, "one")
	}
	if n := f.server.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
	if got, known, err := f.Known(f.issuer, "one"); !known || err != nil || got.Client != "web" {
		t.Errorf("%v, %v, %t", got, err, known)
	}
	// Revoked: it is refused within max_age, and not before that is over.
	f.says(`{"active":false}`)
	f.clock.advance(time.Minute - 1)
	f.allows(t, "one")
	f.clock.advance(1)
	if _, err := f.ask(t, "one"); !isRefused(err) {
		t.Errorf("revoked: %v", err)
	}
	// The refusal is kept for a moment.
	for range 3 {
		if _, err := f.ask(t, "one"); !isRefused(err) {
			t.Error(err)
		}
	}
	if n := f.server.calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	f.says(f.claims())
	f.clock.advance(inactiveAge)
	f.allows(t, "one")

	f.says(f.claims(with("exp", f.clock.now().Add(10*time.Second).Unix())))
	f.allows(t, "short")
	f.clock.advance(39 * time.Second) // with the leeway
	f.allows(t, "short")
	f.clock.advance(time.Second)
	if _, known, err := f.Known(f.issuer, "short"); known {
		t.Errorf("over, and known: %v", err)
	}
	f.issuer.Introspection.MaxAge = 0
	before := f.server.calls.Load()
	f.says(f.claims())
	f.allows(t, "always")
	f.allows(t, "always")
	if n := f.server.calls.Load() - before; n != 2 {
		t.Errorf("always: %d calls", n)
	}
}

// What is refused: the issuer has said so, or says what the policy does not take.
func TestRefusals(t *testing.T) {
	f := newFixture(t)
	now := f.clock.now()
	for name, body := range map[string]string{
		"not active":          `{"active":false}`,
		"not active, and all": f.claims(with("active", false)),
		"another issuer":      f.claims(with("iss", "https://as.example.com/")),
		"no issuer":           f.claims(without("iss")),
		"another audience":    f.claims(with("aud", []string{"https://other.example.com", "https://api.example.com/"})),
		"no audience":         f.claims(without("aud")),
		"over":                f.claims(with("exp", now.Add(-30*time.Second).Unix())),
		"no end":              f.claims(without("exp")),
		"an end as text":      f.claims(with("exp", "1900000000")),
		"ahead":               f.claims(with("nbf", now.Add(time.Hour).Unix())),
		"no client":           f.claims(without("client_id")),
		"a client of a list":  f.claims(with("client_id", []string{"web"})),
		"another kind":        f.claims(with("token_type", "DPoP")),
		"a kind that is none": f.claims(with("token_type", 1)),
		"bound to a key":      f.claims(with("cnf", map[string]any{"jkt": "x"})),
	} {
		f.says(body)
		if _, err := f.ask(t, name); !isRefused(err) && !isUndecided(err) {
			t.Errorf("%s: %v", name, err)
		} else if isUndecided(err) && name != "an end as text" {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.says(f.claims(with("aud", []string{"https://other.example.com", "https://api.example.com"})))
	f.allows(t, "a list with ours last")
}

// What is no answer is neither a yes nor a refusal, and nothing of it is kept.
func TestHostileServers(t *testing.T) {
	f := newFixture(t)
	other := startServer(t)
	other.says(f.claims())
	typed := func(kind, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write([]byte(body))
		}
	}
	status := func(code int, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	good := f.claims()
	for name, does := range map[string]func(http.ResponseWriter, *http.Request){
		"a text for active":     typed("application/json", f.claims(with("active", "true"))),
		"a number for active":   typed("application/json", f.claims(with("active", 1))),
		"null for active":       typed("application/json", f.claims(with("active", nil))),
		"no active":             typed("application/json", f.claims(without("active"))),
		"active in capitals":    typed("application/json", f.claims(without("active"), with("Active", true))),
		"a member twice":        typed("application/json", strings.Replace(good, `{`, `{"active":false,`, 1)),
		"a nested member twice": typed("application/json", strings.Replace(good, `{`, `{"x":{"a":1,"a":2},`, 1)),
		"half a surrogate":      typed("application/json", strings.Replace(good, `{`, `{"x":"\ud800",`, 1)),
		"two documents":         typed("application/json", good+good),
		"a list":                typed("application/json", "["+good+"]"),
		"nothing":               typed("application/json", ""),
		"not all of it":         typed("application/json", good[:len(good)-1]),
		"deeply nested":         typed("application/json", `{"active":true,"x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+"}"),
		"huge":                  typed("application/json", `{"x":"`+strings.Repeat("x", 10<<20)+`",`+good[1:]),
		"HTML":                  typed("text/html", good),
		"no type":               typed("", good),
		"a JWT":                 typed("application/token-introspection+jwt", "a.b.c"),
		"created":               status(201, good),
		"an error":              status(400, `{"error":"invalid_request"}`),
		"not known there":       status(401, `{"error":"invalid_client"}`),
		"broken":                status(500, good),
		"redirected": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
		"many headers": func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1000 {
				w.Header().Set(fmt.Sprint("x-", i), strings.Repeat("x", 1000))
			}
			typed("application/json", good)(w, nil)
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(good))
		},
		"closed": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		f.says(good) // so that the breaker stays closed
		f.allows(t, "before "+name)
		f.does(does)
		token := "secret-token-" + strings.ReplaceAll(name, " ", "-")
		got, err := f.ask(t, token)
		if got != nil || !isUndecided(err) {
			t.Errorf("%s: %v, %v", name, got, err)
			continue
		}
		if text := err.Error(); strings.Contains(text, token) || strings.Contains(text, "s3cret") || strings.Contains(text, f.server.URL) {
			t.Errorf("%s: the error holds what it must not: %s", name, text)
		}
		if _, known, _ := f.Known(f.issuer, token); known {
			t.Errorf("%s: it is kept", name)
		}
	}
	if n := other.calls.Load(); n > 0 {
		t.Error("a redirect was followed")
	}
	f.Close()
	if text := f.log.String(); strings.Contains(text, "secret-token") || strings.Contains(text, "s3cret") || !strings.Contains(text, "does not take the client_id") {
		t.Errorf("log: %s", text)
	}
}

// A request does not wait for a slow issuer longer than it may. Its answer is there for the next.
func TestSlowServer(t *testing.T) {
	f := newFixture(t)
	release := make(chan struct{})
	f.does(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(f.claims()))
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Introspect(ctx, f.issuer, "slow"); !isUndecided(err) {
		t.Errorf("%v", err)
	}
	// All that ask meanwhile share the one call.
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			if got, err := f.ask(t, "slow"); err != nil || got.Client != "web" {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	await(t, func() bool { return f.server.calls.Load() == 1 })
	close(release)
	work.Wait()
	if n := f.server.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// await waits for a condition.
func await(t *testing.T, ready func() bool) {
	t.Helper()
	redistest.Await(t, "what the issuer was asked", func(context.Context) bool { return ready() })
}

// A flood of tokens that nobody knows leaves room for those that were active before, and the issuer
// is not asked more often than it may be.
func TestFlood(t *testing.T) {
	f := newFixture(t)
	f.says(f.claims())
	f.allows(t, "customer")
	f.clock.advance(2 * time.Minute)
	f.says(`{"active":false}`)
	var busy int
	for i := range 1000 {
		if _, err := f.ask(t, fmt.Sprint("guess ", i)); isUndecided(err) {
			busy++
		} else if !isRefused(err) {
			t.Fatal(err)
		}
	}
	if n := f.server.calls.Load(); n != 1+perSecond*3/4 || busy != 1000-perSecond*3/4 {
		t.Errorf("%d calls, %d refused for want of room", n, busy)
	}
	f.says(f.claims())
	f.allows(t, "customer")
	f.clock.advance(time.Second)
	f.allows(t, "stranger")

	// The same with calls that last.
	release := make(chan struct{})
	f.does(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(f.claims()))
	})
	before := f.server.calls.Load()
	var work sync.WaitGroup
	for i := range maxCalls * 3 / 4 {
		work.Go(func() { _, _ = f.ask(t, fmt.Sprint("slow ", i)) })
	}
	await(t, func() bool { return f.server.calls.Load()-before == maxCalls*3/4 })
	if _, err := f.ask(t, "one too many"); !isUndecided(err) {
		t.Errorf("%v", err)
	}
	f.clock.advance(time.Minute)
	work.Go(func() {
		if got, err := f.ask(t, "customer"); err != nil || got.Client != "web" {
			t.Errorf("%v, %v", got, err)
		}
	})
	await(t, func() bool { return f.server.calls.Load()-before == maxCalls*3/4+1 })
	close(release)
	work.Wait()
	if s := f.Status(); len(s) != 1 || s[0].Busy != uint64(busy)+1 || s[0].Failures != 0 || s[0].Issuer != f.issuer.URL {
		t.Errorf("%+v", s)
	}
}

// An issuer that does not answer is left alone for a while, and what is kept goes on.
func TestBreaker(t *testing.T) {
	f := newFixture(t)
	f.says(f.claims())
	f.allows(t, "kept")
	f.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	for i := range 20 {
		if _, err := f.ask(t, fmt.Sprint(i)); !isUndecided(err) {
			t.Errorf("%v", err)
		}
	}
	if n := f.server.calls.Load(); n != 1+tripAfter {
		t.Errorf("%d calls", n)
	}
	f.allows(t, "kept")
	f.says(f.claims())
	await(t, func() bool {
		_, err := f.ask(t, "again")
		return err == nil
	})
	f.Close()
	if text := f.log.String(); strings.Count(text, "does not answer") != 1 || strings.Count(text, "answers about tokens again") != 1 {
		t.Errorf("log: %s", text)
	}
	if _, err := f.ask(t, "after the end"); !isUndecided(err) {
		t.Errorf("%v", err)
	}
}

// Of a JWT, which was verified by its signature, it is asked whether it is revoked. What the token
// says of itself stands, and the answer may not contradict it.
func TestVerifiedTokens(t *testing.T) {
	f := newFixture(t)
	signer := oauthtest.NewSigner(t, "k1", "ES256")
	token := func(edits ...func(map[string]any)) string {
		c := oauthtest.Claims(f.issuer.URL, f.issuer.Audiences[0], "web", f.clock.now())
		for _, edit := range edits {
			edit(c)
		}
		return signer.Token(t, c)
	}
	for name, body := range map[string]string{
		"alone": `{"active":true}`, "with all": f.claims(), "for others": f.claims(with("aud", "https://other.example.com")),
	} {
		f.says(body)
		text := token()
		f.allows(t, text)
		if got, known, err := f.Known(f.issuer, text); !known || err != nil || got.Client != "web" {
			t.Errorf("%s: %v, %v, %t", name, got, err, known)
		}
	}
	for name, body := range map[string]string{
		"revoked": `{"active":false}`, "another client": f.claims(with("client_id", "app")), "another issuer": f.claims(with("iss", "https://other.example.com")),
		"over": f.claims(with("exp", f.clock.now().Add(-time.Hour).Unix())), "a list of clients": f.claims(with("client_id", []string{"web"})),
	} {
		f.says(body)
		if got, err := f.ask(t, token()); !isRefused(err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	// Its own end is the bound of what is kept.
	f.says(`{"active":true}`)
	short := token(with("exp", f.clock.now().Add(time.Second).Unix()))
	f.allows(t, short)
	f.clock.advance(time.Second + f.issuer.Leeway)
	if _, known, _ := f.Known(f.issuer, short); known {
		t.Error("it counts beyond its end")
	}
	for name, text := range map[string]string{"over": short, "for others": token(with("aud", "https://other.example.com")), "no JWT": "a.b.c"} {
		if got, err := f.ask(t, text); !isRefused(err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// Where to ask may come from the issuer's own metadata.
func TestEndpointOfTheMetadata(t *testing.T) {
	var known atomic.Pointer[string]
	f := newFixture(t, func(o *Options) {
		o.Endpoint = func(*oauth.Issuer) string {
			if p := known.Load(); p != nil {
				return *p
			}
			return ""
		}
	})
	f.says(f.claims())
	f.issuer.Introspection.Endpoint = ""
	if _, err := f.ask(t, "one"); !isUndecided(err) {
		t.Errorf("%v", err)
	}
	known.Store(&f.server.URL)
	f.allows(t, "one")
}

// A policy that judges otherwise does not take what another one took.
func TestAnotherPolicy(t *testing.T) {
	f := newFixture(t)
	f.says(f.claims())
	f.allows(t, "one")
	same := *f.issuer
	if _, known, _ := f.Known(&same, "one"); !known {
		t.Error("the same policy, loaded again, does not know it")
	}
	stricter := *f.issuer
	stricter.Audiences = []string{"https://new.example.com"}
	if _, err := f.Introspect(t.Context(), &stricter, "one"); !isRefused(err) {
		t.Errorf("%v", err)
	}
	elsewhere := *f.issuer
	elsewhere.API = "genapi"
	if _, known, _ := f.Known(&elsewhere, "one"); known {
		t.Error("another API knows it")
	}
	// Two APIs that ask as different clients are one issuer still.
	asking := *f.issuer.Introspection
	asking.ClientID = "genapi"
	elsewhere.Introspection = &asking
	if _, err := f.Introspect(t.Context(), &elsewhere, "one"); err != nil {
		t.Error(err)
	}
	if s := f.Status(); len(s) != 1 || s[0].Calls != 3 {
		t.Errorf("%+v", s)
	}
	if active, inactive := f.Kept(); active != 1 || inactive != 1 {
		t.Errorf("%d and %d answers", active, inactive)
	}
}
