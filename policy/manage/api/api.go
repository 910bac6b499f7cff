// Package api is the management API: HTTP with JSON, by which members of teams make, change and end
// keys without holding the store or the pepper. Who asks is told by a member's token, what they may
// do by the table of roles.
//
// api.go puts the parts together and is what each request passes first; authenticate.go and
// throttle.go say who asks and how often; problem.go has everything that a refusal can be.
package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/store"
	"tollgate/policy/keys/strictjson"
	"tollgate/policy/manage/once"
)

const (
	// maxBody is far above a key with as many addresses and scopes as one may have, in bytes.
	maxBody = 256 << 10
	// maxBusy is how many requests are worked on at once.
	maxBusy = 64
	// changeTime bounds a change, which goes on when its client has gone: half of it would be worse
	// than all. Revoke waits for replicas and servers, a second each.
	changeTime = 10 * time.Second
	readTime   = 5 * time.Second
)

// Config says what the API works with. No field but Trusted and Secure may be zero.
type Config struct {
	Store  *store.Store
	Audit  *audit.Stream
	Hasher *keys.Hasher
	Once   *once.Reservations
	Rules  func() keys.Rules // what the policies in force say

	// CheckPepper reports that the keys of the store are hashed with another pepper than the
	// Hasher's: nobody could use a key that is made then.
	CheckPepper func(ctx context.Context) error
	// Ready says why requests cannot be answered, nil if they can.
	Ready func(ctx context.Context) error

	Trusted []netip.Prefix // peers whose X-Forwarded-For is believed
	Secure  bool           // clients come over TLS
	Log     *slog.Logger
	Now     func() time.Time
}

// API answers requests. It is safe for concurrent use.
type API struct {
	config   Config
	mux      *http.ServeMux
	logins   *throttle // failed ones, by address
	writes   *throttle // by member
	busy     chan struct{}
	health   health // whether requests can be answered
	peppered health // whether the pepper is that of the store
}

// New returns an API.
func New(c Config) *API {
	a := &API{
		config: c, mux: http.NewServeMux(), busy: make(chan struct{}, maxBusy),
		logins: newThrottle(failedLogins, failedLoginsBurst), writes: newThrottle(writesPerSecond, writesBurst),
	}
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}
	config := huma.DefaultConfig("Tollgate management API", "1")
	config.CreateHooks = nil // no $schema in answers
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.Formats = map[string]huma.Format{"application/json": format, "json": format}
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{asProblem}
	config.Info.Description = "Keys and members of one team, for its members. Every request carries a member's token."
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"memberToken": {Type: "http", Scheme: "bearer", Description: "A member's token, which begins with " + store.TokenPrefix + "."},
	}
	config.Security = []map[string][]string{{"memberToken": {}}}
	h := humago.New(a.mux, config)
	a.addKeys(h)
	a.addMembers(h)
	// Refusals are a Problem; what the library calls one is never sent.
	for _, unused := range []string{"ErrorModel", "ErrorDetail"} {
		delete(h.OpenAPI().Components.Schemas.Map(), unused)
	}
	a.serveDocument(h.OpenAPI())
	a.mux.HandleFunc("GET /problems/{code}", servePage)
	a.mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	a.mux.HandleFunc("GET /readyz", a.serveReady)
	return a
}

// serveDocument serves what the operations are, as OpenAPI 3.1.
func (a *API) serveDocument(document *huma.OpenAPI) {
	data, err := json.MarshalIndent(document, "", " ")
	if err != nil {
		panic(err) // of types that are compiled in: any test meets it
	}
	a.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(append(data, '\n'))
	})
}

// unmarshal reads JSON of which no field could be read in two ways.
func unmarshal(data []byte, v any) error {
	if !json.Valid(data) {
		return errors.New("not JSON")
	}
	if name, ok := strictjson.Names(data); !ok {
		return errors.New("unknown or repeated field " + shownName(name))
	}
	if json.Unmarshal(data, v) != nil {
		return errors.New("a value has the wrong type")
	}
	return nil
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{id: newRequestID(), address: a.addressOf(r)}
	a.setHeaders(w.Header(), c.id)
	defer func() {
		if cause := recover(); cause != nil {
			// What it holds could be part of a request.
			a.config.Log.Error("a request to the management API ended in a panic", slog.String("request", c.id))
			a.refuse(w, c, newProblem(codeInternal, ""))
		}
	}()
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		a.route(w, r, c)
		return
	}
	select {
	case a.busy <- struct{}{}:
		defer func() { <-a.busy }()
	default:
		w.Header().Set("Retry-After", "1")
		a.refuse(w, c, newProblem(codeBusy, ""))
		return
	}
	change := r.Method != http.MethodGet && r.Method != http.MethodHead
	ctx, cancel := timeFor(r.Context(), change)
	defer cancel()
	r = r.WithContext(ctx)
	if problem := a.admit(w.Header(), r, c, change); problem != nil {
		a.refuse(w, c, problem)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 2*maxBody) // the operation refuses less
	a.route(w, r, c)
}

// timeFor bounds the work on a request. A change goes on when the client has gone.
func timeFor(ctx context.Context, change bool) (context.Context, context.CancelFunc) {
	if change {
		return context.WithTimeout(context.WithoutCancel(ctx), changeTime)
	}
	return context.WithTimeout(ctx, readTime)
}

// admit says why a request under /v1 is not to be answered, nil if it is. It notes who asks.
func (a *API) admit(h http.Header, r *http.Request, c *call, change bool) *Problem {
	if problem := a.authenticate(h, r, c); problem != nil {
		return problem
	}
	if !change {
		return nil
	}
	if wait := a.writes.take(c.who.ID, a.config.Now()); wait > 0 {
		h.Set("Retry-After", seconds(wait))
		return newProblem(codeTooManyRequests, "")
	}
	if r.ContentLength == 0 {
		return nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" && !(r.Method == http.MethodPatch && kind == "application/merge-patch+json") {
		return newProblem(codeMediaType, "")
	}
	return nil
}

// route lets the operation answer, or says that there is none.
func (a *API) route(w http.ResponseWriter, r *http.Request, c *call) {
	handler, pattern := a.mux.Handler(r)
	// ServeMux would redirect to a cleaner path. No id has a dot.
	if strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "/.") {
		a.refuse(w, c, newProblem(codeNoSuchPath, ""))
		return
	}
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	s := &statusOnly{header: http.Header{}}
	handler.ServeHTTP(s, r)
	if s.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", s.header.Get("Allow"))
		a.refuse(w, c, newProblem(codeMethod, ""))
		return
	}
	a.refuse(w, c, newProblem(codeNoSuchPath, ""))
}

// statusOnly keeps what ServeMux answers where there is no operation.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

// refuse writes a problem where no operation has been reached.
func (a *API) refuse(w http.ResponseWriter, c *call, p *Problem) {
	p.RequestID = c.id
	data, err := json.Marshal(p)
	if err != nil {
		data = nil
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(data, '\n'))
}

func (a *API) setHeaders(h http.Header, id string) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("X-Request-Id", id)
	if a.config.Secure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// manager changes keys for who asks.
func (a *API) manager(ctx context.Context) *admin.Manager {
	return admin.NewManager(a.config.Store, a.config.Hasher, rules{a.config.Rules()}, a.config.Audit, callOf(ctx).who, a.config.Now)
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
