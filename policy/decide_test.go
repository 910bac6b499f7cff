package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// shop is a policy that uses every part of the language; %s is where a test adds its own lines.
const shop = `
api: shop
hosts: [shop.example.com]
credentials: [bearer, {header: X-API-Key}, {query: api_key}]
environments:
- {name: live, prefix: sk_live_, hosts: [shop.example.com], context: live}
- {name: test, prefix: sk_test_, hosts: [sandbox.example.com], context: test, quota: false}
scopes: [{name: read}, {name: write, implies: [read]}, {name: admin, implies: [write]}]
routes:
- {name: list, match: "GET /items", scope: read}
- {name: add, match: "POST /items", scope: write, cost: 2}
- {name: me, match: "GET /me", scope: none, cost: 0}
- {name: wide, match: "/any/{rest...}", scope: read}
- {name: health, match: "GET /health", public: true}
plans:
- {name: closed, limits: [{name: minute, requests: 10, per: minute}, {name: month, requests: 100, per: month, quota: true}]}
- {name: open, failure_mode: open, limits: [{name: minute, requests: 10, per: minute}]}
- {name: local, failure_mode: local, limits: [{name: minute, requests: 10, per: minute}]}
- {name: unlimited, limits: []}
- {name: own, month_anchor: key, limits: [{name: month, requests: 100, per: month}]}
rate_headers: {family: x-ratelimit, ietf: true}
`

// shopAnswers answers each reason with its own name, and reasons from 401 to 503.
func shopAnswers() string {
	var b strings.Builder
	b.WriteString("errors:\n  dialect: envelope\n  request_id: requestId\n  answers:\n")
	for _, r := range policy.Reasons() {
		status := 401
		switch {
		case !r.Answered():
			continue
		case r == policy.AddressDenied, r == policy.ScopeDenied, r == policy.RouteDenied:
			status = 403
		case r.Limited():
			status = 429
		case r == policy.Undecided:
			status = 503
		}
		fmt.Fprintf(&b, "  - {on: [%s], status: %d, code: %s, message: is %s}\n", r, status, r, r)
	}
	return b.String()
}

func shopSet(t testing.TB, extra ...string) *policy.Set {
	t.Helper()
	return compiled(t, shop+strings.Join(extra, "\n")+"\n"+shopAnswers())
}

func secret(prefix string) string { return keys.Seal(prefix, "0123456789abcdefghijklmnopq") }

func clock() time.Time { return time.Date(2026, 1, 15, 12, 0, 30, 5e8, time.UTC) }

// world is one request and what the store would say to it.
type world struct {
	request  policy.Request
	key      keys.Key
	keyErr   error
	spent    int64 // of every window
	inUse    int64 // slots, with that of this request
	full     bool  // no slot is free
	spendErr error

	looked int
	spend  *limits.Spend
	local  *limits.Local
	check  *policy.Check // to use again; nil for a new one
}

// goodWorld is a request that is allowed.
func goodWorld() *world {
	return &world{
		request: policy.Request{
			HTTP: true, Method: "GET", Host: "shop.example.com", Target: "/items",
			Headers: []policy.Header{{"authorization", "Bearer " + secret("sk_live_")}, {"x-request-id", "r-1"}},
			Peer:    netip.MustParseAddr("192.0.2.1"),
		},
		key: keys.Key{
			ID: "key_0001", API: "shop", Team: "team_a", Name: "ci", Environment: "live", Plan: "closed",
			LimitID: "lim_1", Scopes: []string{"read"}, Status: keys.Active, AnchorDay: 20,
		},
		local: limits.NewLocal(2, clock, 10),
	}
}

// decide runs a decision as its host does, with a store that counts.
func (w *world) decide(t interface{ Fatalf(string, ...any) }, set *policy.Set) *policy.Decision {
	decider := policy.NewDecider(keys.NewHasher([]byte("pepper")), w.local, clock)
	check := w.check
	if check == nil {
		check = &policy.Check{}
	}
	wait := decider.Begin(check, set, &w.request)
	for wait != policy.Done {
		switch wait {
		case policy.WaitKey:
			if check.Digest() != keys.NewHasher([]byte("pepper")).Digest(secret("sk_live_")) && check.API().Name() == "shop" && w.key.Environment != "test" {
				t.Fatalf("asks for another key")
			}
			if w.looked++; w.looked > 1 {
				t.Fatalf("looked up twice")
			}
			k := w.key
			wait = check.Found(*keys.NewGrant(&k), w.keyErr)
			if w.keyErr != nil && wait != policy.Done {
				t.Fatalf("goes on without a key")
			}
		case policy.WaitLimits:
			if w.spend != nil {
				t.Fatalf("spent twice")
			}
			w.spend = check.Spend()
			*check.Result() = w.answer()
			wait = check.Spent(w.spendErr)
		}
	}
	return check.Decision()
}

func (w *world) answer() limits.Result {
	res := limits.Result{Allowed: true, Now: clock()}
	if w.spendErr != nil {
		return limits.Result{Allowed: true} // never to be looked at
	}
	for _, window := range w.spend.Windows {
		_, end := window.Bounds(clock())
		state := limits.State{Spent: w.spent, Reset: end}
		res.Allowed = res.Allowed && !window.Denies(state, w.spend.Cost)
		res.States = append(res.States, state)
	}
	if w.spend.Slot.ID != "" && res.Allowed {
		res.Full, res.Allowed, res.InUse = w.full, !w.full, w.spend.Slot.Places
		if !w.full {
			res.InUse = w.inUse
		}
	}
	if res.Allowed && !w.spend.ReadOnly {
		for i := range res.States {
			res.States[i].Spent += w.spend.Cost
		}
	}
	return res
}

func header(list []policy.Header, name string) string {
	for _, h := range list {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// step is one thing that can be wrong, and the reason that it gives.
type step struct {
	name   string
	wrong  func(*world)
	reason policy.Reason
	headed bool // the key is known: rate headers, its id in the metadata
}

// steps are in the order of the decision: each wins over all that follow.
func steps() []step {
	return []step{
		{"no HTTP", func(w *world) { w.request.HTTP = false }, policy.UnknownAPI, false},
		{"unknown host", func(w *world) { w.request.Host = "nowhere.example.com" }, policy.UnknownAPI, false},
		{"no credential", func(w *world) { w.request.Headers = nil }, policy.MissingCredential, false},
		{"not a key", func(w *world) { w.request.Headers = []policy.Header{{"x-api-key", "sk_live_short"}} }, policy.MalformedCredential, false},
		{"store away", func(w *world) { w.keyErr = errors.New("away") }, policy.Undecided, false},
		{"too many unknown", func(w *world) { w.keyErr = fmt.Errorf("find: %w", keys.ErrBusy) }, policy.LookupRefused, false},
		{"unreadable record", func(w *world) { w.keyErr = fmt.Errorf("found: %w", &keys.CorruptError{ID: "key_0001"}) }, policy.CorruptKey, false},
		{"unknown", func(w *world) { w.keyErr = fmt.Errorf("find: %w", keys.ErrUnknown) }, policy.UnknownKey, false},
		{"of another API", func(w *world) { w.key.API = "other" }, policy.UnknownKey, false},
		{"deleted", func(w *world) { w.key.Status = keys.Deleted }, policy.UnknownKey, false},
		{"revoked", func(w *world) { w.key.Status = keys.Revoked }, policy.RevokedKey, false},
		{"unknown environment", func(w *world) { w.key.Environment = "gone" }, policy.CorruptKey, false},
		{"wrong environment", func(w *world) { w.key.Environment = "test" }, policy.WrongEnvironment, false},
		{"inactive", func(w *world) { w.key.Status = keys.Inactive }, policy.InactiveKey, true},
		{"unknown status", func(w *world) { w.key.Status = "odd" }, policy.InactiveKey, true},
		{"expired", func(w *world) { w.key.ExpiresAt = clock() }, policy.ExpiredKey, true},
		{"retired", func(w *world) { w.key.RetiresAt = clock().Add(-time.Second) }, policy.ExpiredKey, true},
		{"unknown plan", func(w *world) { w.key.Plan = "gone" }, policy.CorruptKey, false},
		{"override of an unknown limit", func(w *world) { w.key.Limits = []keys.Override{{Name: "gone", Requests: 1}} }, policy.CorruptKey, false},
		{"address", func(w *world) { w.key.IPs = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }, policy.AddressDenied, true},
		{"no route", func(w *world) { w.request.Target = "/nothing" }, policy.RouteDenied, true},
		{"scope", func(w *world) { w.key.Scopes = nil }, policy.ScopeDenied, true},
		{"limits away", func(w *world) { w.spendErr = errors.New("away") }, policy.Undecided, false},
		{"quota", func(w *world) { w.spent = 100 }, policy.QuotaExceeded, true},
		{"rate", func(w *world) { w.spent = 10 }, policy.RateLimited, true},
	}
}

// Everything from one step on is wrong: the first fault is the answer.
func TestTheFirstFaultIsTheAnswer(t *testing.T) {
	set := shopSet(t)
	all := steps()
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			w := goodWorld()
			for _, later := range slices.Backward(all[i:]) {
				later.wrong(w)
			}
			d := w.decide(t, set)
			if d.Reason != s.reason || d.Allow {
				t.Errorf("reason %s, allow %v, want %s", d.Reason, d.Allow, s.reason)
			}
		})
	}
}

// One thing alone is wrong.
func TestOneFaultDenies(t *testing.T) {
	set := shopSet(t)
	if d := goodWorld().decide(t, set); !d.Allow || d.Reason != policy.Allowed {
		t.Fatalf("the good one is %s", d.Reason)
	}
	for _, s := range steps() {
		t.Run(s.name, func(t *testing.T) {
			w := goodWorld()
			s.wrong(w)
			d := w.decide(t, set)
			if d.Reason != s.reason || d.Allow || d.Status < 400 || len(d.Body) == 0 {
				t.Fatalf("reason %s, status %d, body %s", d.Reason, d.Status, d.Body)
			}
			if len(d.Request) != 0 || len(d.Remove) != 0 || d.Target != "" {
				t.Errorf("a denial changes the request: %+v", d)
			}
			wantHeaders := s.headed
			if got := header(d.Response, "x-ratelimit-limit") != ""; got != wantHeaders {
				t.Errorf("rate headers %v, want %v: %v", got, wantHeaders, d.Response)
			}
			if w.spend != nil && !w.spend.ReadOnly && !s.reason.Limited() && s.name != "limits away" {
				t.Errorf("a refused request spends")
			}
			if s.headed && !s.reason.Limited() && (w.spend == nil || !w.spend.ReadOnly) {
				t.Errorf("the counters were not read: %+v", w.spend)
			}
			if s.headed && d.Meta("key_id") != "key_0001" {
				t.Errorf("metadata %v", d.Metadata)
			}
			if header(d.Response, "cache-control") != "no-store" {
				t.Errorf("headers %v", d.Response)
			}
			if got := header(d.Response, "www-authenticate") != ""; got != (d.Status == 401) {
				t.Errorf("status %d with challenge %v", d.Status, got)
			}
			if got := header(d.Response, "retry-after") != ""; got != s.reason.Limited() {
				t.Errorf("Retry-After %v for %s", got, s.reason)
			}
			if d.Meta("reason") != s.reason.String() || len(d.Meta("decision_id")) != 16 {
				t.Errorf("metadata %v", d.Metadata)
			}
		})
	}
}

func TestAllowed(t *testing.T) {
	set := shopSet(t)
	w := goodWorld()
	w.spent = 3
	w.request.Target = "/items?a=1&api_key=" + secret("sk_live_") + "&b=%20"
	w.request.Headers = append(w.request.Headers,
		policy.Header{"x_consumer_id", "forged"}, policy.Header{"x-consumer_plan", "forged"}, policy.Header{"x-consumer-id", "forged"}, policy.Header{"x_envoy_auth_failure_mode_allowed", "true"}, policy.Header{"x_other", "kept"})
	d := w.decide(t, set)
	if !d.Allow || d.Target != "/items?a=1&b=%20" {
		t.Errorf("allow %v, target %q", d.Allow, d.Target)
	}
	want := []policy.Header{
		{"x-consumer-id", "team_a"}, {"x-consumer-username", "ci"}, {"x-credential-identifier", "key_0001"},
		{"x-consumer-plan", "closed"}, {"x-authenticated-scope", "read"},
	}
	if !slices.Equal(d.Request, want) {
		t.Errorf("request headers %v", d.Request)
	}
	if want := []string{"authorization", "x-envoy-auth-failure-mode-allowed", "x-http-method-override", "x-http-method", "x-method-override", "x_consumer_id", "x-consumer_plan", "x_envoy_auth_failure_mode_allowed"}; !slices.Equal(d.Remove, want) {
		t.Errorf("removed %v", d.Remove)
	}
	if want := []policy.Header{
		{"x-ratelimit-limit", "10"}, {"x-ratelimit-remaining", "6"}, {"x-ratelimit-reset", strconv.FormatInt(clock().Truncate(time.Minute).Unix()+60, 10)},
		{"ratelimit-policy", `"minute";q=10;w=60, "month";q=100;w=2678400`}, {"ratelimit", `"minute";r=6;t=30`},
	}; !slices.Equal(d.Response, want) {
		t.Errorf("response headers %v", d.Response)
	}
	if want := []policy.Header{
		{"decision_id", d.ID}, {"reason", "allowed"}, {"api", "shop"}, {"route", "list"}, {"scope", "read"},
		{"key_id", "key_0001"}, {"team", "team_a"}, {"plan", "closed"}, {"environment", "live"},
	}; !slices.Equal(d.Metadata, want) {
		t.Errorf("metadata %v", d.Metadata)
	}
	if w.spend.ID != "lim_1" || w.spend.Cost != 1 || w.spend.ReadOnly || len(w.spend.Windows) != 2 {
		t.Errorf("spend %+v", w.spend)
	}
}

// A key without team and plan, on a route without scope: those headers are removed.
func TestIdentityWithoutValueIsRemoved(t *testing.T) {
	w := goodWorld()
	w.key.Team, w.request.Target = "", "/me"
	d := w.decide(t, shopSet(t))
	if !d.Allow || w.spend.Cost != 0 {
		t.Fatalf("%s %+v", d.Reason, w.spend)
	}
	for _, name := range []string{"x-consumer-id", "x-authenticated-scope", "x-envoy-auth-failure-mode-allowed"} {
		if !slices.Contains(d.Remove, name) || header(d.Request, name) != "" {
			t.Errorf("%s is not removed", name)
		}
	}
}

func TestPublicRoute(t *testing.T) {
	for name, headers := range map[string][]policy.Header{
		"no key":    nil,
		"a key":     {{"authorization", "Bearer " + secret("sk_live_")}},
		"a bad key": {{"authorization", "Bearer , "}},
		"forged":    {{"x_consumer_id", "forged"}, {"x-consumer-id", "forged"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := goodWorld()
			w.request.Target, w.request.Headers = "/health?api_key=x&y=1", headers
			d := w.decide(t, shopSet(t))
			if !d.Allow || w.looked != 0 || w.spend != nil {
				t.Fatalf("%s, looked %d", d.Reason, w.looked)
			}
			if len(d.Request) != 0 || d.Target != "/health?y=1" || len(d.Response) != 0 {
				t.Errorf("%+v", d)
			}
			want := []string{"x-consumer-id", "x-consumer-username", "x-credential-identifier", "x-authenticated-scope", "x-consumer-plan", "x-envoy-auth-failure-mode-allowed"}
			for _, h := range headers {
				if h.Name == "authorization" || h.Name == "x_consumer_id" {
					want = append(want, h.Name)
				}
			}
			for _, name := range want {
				if !slices.Contains(d.Remove, name) {
					t.Errorf("%s is not removed", name)
				}
			}
		})
	}
	for _, target := range []string{"/health/", "//health", "/health;x", "/health?a#b", "/%2e/health", "/health?a b"} {
		w := goodWorld()
		w.request.Target, w.request.Headers = target, nil
		if d := w.decide(t, shopSet(t)); d.Allow {
			t.Errorf("%q is public", target)
		}
	}
}

func TestNamedByTheProxy(t *testing.T) {
	given := func(s string) policy.Named { return policy.Named{Value: s, Given: true} }
	for _, c := range []struct {
		name string
		set  func(*policy.Request)
		want policy.Reason
	}{
		{"api", func(r *policy.Request) { r.API, r.Host, r.Environment = given("shop"), "a,b", given("live") }, policy.Allowed},
		{"api, host elsewhere, no environment", func(r *policy.Request) { r.API, r.Host = given("shop"), "elsewhere" }, policy.WrongEnvironment},
		{"unknown api", func(r *policy.Request) { r.API = given("nope") }, policy.UnknownAPI},
		{"empty api", func(r *policy.Request) { r.API = given("") }, policy.UnknownAPI},
		{"route", func(r *policy.Request) { r.Route, r.Target = given("list"), "/renamed" }, policy.Allowed},
		{"route, scope counts", func(r *policy.Request) { r.Route = given("add") }, policy.ScopeDenied},
		{"unknown route", func(r *policy.Request) { r.Route = given("nope") }, policy.RouteDenied},
		{"empty route", func(r *policy.Request) { r.Route = given("") }, policy.RouteDenied},
		{"odd path, named route", func(r *policy.Request) { r.Route, r.Target = given("list"), "/items/../admin" }, policy.RouteDenied},
		{"odd path, public route named", func(r *policy.Request) { r.Route, r.Target = given("health"), "//health" }, policy.RouteDenied},
		{"fragment in query, named route", func(r *policy.Request) { r.Route, r.Target = given("list"), "/items?a#b" }, policy.RouteDenied},
		{"CONNECT, named route", func(r *policy.Request) { r.Route, r.Method = given("list"), "CONNECT" }, policy.RouteDenied},
		{"no path, named route", func(r *policy.Request) { r.Route, r.Target = given("list"), "" }, policy.RouteDenied},
		{"environment", func(r *policy.Request) { r.Environment = given("live") }, policy.Allowed},
		{"other environment", func(r *policy.Request) { r.Environment = given("test") }, policy.WrongEnvironment},
		{"unknown environment", func(r *policy.Request) { r.Environment = given("nope") }, policy.WrongEnvironment},
		{"empty environment", func(r *policy.Request) { r.Environment = given("") }, policy.WrongEnvironment},
		{"host of the other environment", func(r *policy.Request) { r.Host = "sandbox.example.com" }, policy.WrongEnvironment},
		{"environment wins over host", func(r *policy.Request) { r.Host, r.Environment = "sandbox.example.com", given("live") }, policy.Allowed},
		{"host in capitals, port, dot", func(r *policy.Request) { r.Host = "SHOP.example.com.:443" }, policy.Allowed},
		{"two hosts", func(r *policy.Request) { r.Host = "shop.example.com,shop.example.com" }, policy.UnknownAPI},
		{"no host", func(r *policy.Request) { r.Host = "" }, policy.UnknownAPI},
		{"user in host", func(r *policy.Request) { r.Host = "x@shop.example.com" }, policy.UnknownAPI},
		{"no path", func(r *policy.Request) { r.Target = "" }, policy.RouteDenied},
		{"only a query", func(r *policy.Request) { r.Target = "?a" }, policy.RouteDenied},
		{"OPTIONS *", func(r *policy.Request) { r.Method, r.Target = "OPTIONS", "*" }, policy.RouteDenied},
		{"CONNECT", func(r *policy.Request) { r.Method, r.Target = "CONNECT", "shop.example.com:443" }, policy.RouteDenied},
		{"CONNECT with a path", func(r *policy.Request) { r.Method, r.Target = "CONNECT", "/any/x" }, policy.RouteDenied},
		{"no method", func(r *policy.Request) { r.Method, r.Target = "", "/any/x" }, policy.RouteDenied},
		{"absolute form", func(r *policy.Request) { r.Target = "http://shop.example.com/items" }, policy.RouteDenied},
		{"HEAD", func(r *policy.Request) { r.Method = "HEAD" }, policy.Allowed},
		{"other method", func(r *policy.Request) { r.Method = "PUT" }, policy.RouteDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := goodWorld()
			c.set(&w.request)
			if d := w.decide(t, shopSet(t)); d.Reason != c.want || d.Allow != (c.want == policy.Allowed) {
				t.Errorf("%s, want %s", d.Reason, c.want)
			}
		})
	}
}

func TestEnvironments(t *testing.T) {
	w := goodWorld()
	w.request.Host = "sandbox.example.com"
	w.request.Headers = []policy.Header{{"x-api-key", secret("sk_test_")}}
	w.key.Environment = "test"
	w.key.Limits = []keys.Override{{Name: "month", Requests: 1}, {Name: "minute", Requests: 20}}
	d := w.decide(t, shopSet(t))
	if !d.Allow || len(w.spend.Windows) != 1 || w.spend.Windows[0].Name != "minute" || w.spend.Windows[0].Limit != 20 {
		t.Errorf("%s, spends %+v, want no quota", d.Reason, w.spend)
	}
	// Without environments none may be named, by key or proxy.
	plain := compiled(t, changed(t))
	w = goodWorld()
	w.request.Host, w.request.Target, w.request.Headers = "jobs.example.com", "/v1/jobs/1", []policy.Header{{"x-api-key", secret("jb_")}}
	w.key.API, w.key.Environment, w.key.Plan = "jobs", "", "free"
	if d := w.decide(t, plain); !d.Allow {
		t.Errorf("%s", d.Reason)
	}
	w.request.Environment = policy.Named{"live", true}
	w.looked, w.spend = 0, nil
	if d := w.decide(t, plain); d.Reason != policy.WrongEnvironment {
		t.Errorf("%s, want wrong_environment", d.Reason)
	}
	// An environment without hosts and context is accepted everywhere.
	anywhere := compiled(t, changed(t, "key_format: {prefixes: [jb_]}", "environments: [{name: live, prefix: jb_}, {name: ctx, prefix: jc_, context: c}]"))
	for _, c := range []struct {
		env   string
		named policy.Named
		want  policy.Reason
	}{
		{"live", policy.Named{}, policy.Allowed}, {"live", policy.Named{"x", true}, policy.Allowed},
		{"ctx", policy.Named{}, policy.WrongEnvironment}, {"ctx", policy.Named{"c", true}, policy.Allowed}, {"ctx", policy.Named{"d", true}, policy.WrongEnvironment},
	} {
		w.looked, w.spend = 0, nil
		w.key.Environment, w.request.Environment = c.env, c.named
		w.request.Headers[0].Value = secret(map[string]string{"live": "jb_", "ctx": "jc_"}[c.env])
		if d := w.decide(t, anywhere); d.Reason != c.want {
			t.Errorf("%+v: %s", c, d.Reason)
		}
	}
}

// A limit that names environments is for their keys alone, and an override of it, too.
func TestLimitsOfAnEnvironment(t *testing.T) {
	plans := `
- name: split
  limits:
  - {name: minute, requests: 10, per: minute}
  - {name: day, requests: 1000, per: day, environments: [live]}
  - {name: test_day, requests: 100, per: day, environments: [test]}
  - {name: both_hour, requests: 500, per: hour, environments: [test, live]}
  - {name: month, requests: 5000, per: month, quota: true}
- {name: anniversary, month_anchor: key, limits: [{name: month, requests: 5, per: month, environments: [live]}, {name: hour, requests: 5, per: hour, environments: [test]}]}
rate_headers:`
	set := compiled(t, strings.Replace(shop, "\nrate_headers:", plans, 1)+shopAnswers())
	limit := func(name string, n int64) []keys.Override { return []keys.Override{{Name: name, Requests: n}} }
	for _, test := range []struct {
		plan, environment string
		overrides         []keys.Override
		want              string
	}{
		{"split", "live", nil, " minute=10 day=1000 both_hour=500 month=5000"},
		{"split", "test", nil, " minute=10 test_day=100 both_hour=500"},
		{"split", "live", limit("day", 7), " minute=10 day=7 both_hour=500 month=5000"},
		{"split", "test", limit("test_day", 7), " minute=10 test_day=7 both_hour=500"},
		{"split", "test", limit("month", 7), " minute=10 test_day=100 both_hour=500"},
		{"split", "live", limit("test_day", 7), "corrupt_key"},
		{"split", "test", limit("day", 7), "corrupt_key"},
		{"split", "", nil, "corrupt_key"},
		{"split", "tests", nil, "corrupt_key"},
		{"anniversary", "live", nil, " month=5/20"},
		{"anniversary", "test", nil, " hour=5/20"},
		{"anniversary", "test", limit("month", 1), "corrupt_key"},
	} {
		w := goodWorld()
		w.key.Plan, w.key.Environment, w.key.Limits = test.plan, test.environment, test.overrides
		if test.environment == "test" {
			w.request.Host, w.request.Headers[0].Value = "sandbox.example.com", "Bearer "+secret("sk_test_")
		}
		got := w.decide(t, set).Reason.String()
		if w.spend != nil {
			got = ""
			for _, window := range w.spend.Windows {
				got += fmt.Sprintf(" %s=%d", window.Name, window.Limit)
				if window.Anchor != 1 {
					got += fmt.Sprintf("/%d", window.Anchor)
				}
			}
		}
		if got != test.want {
			t.Errorf("%s %s %v: %s, want %s", test.plan, test.environment, test.overrides, got, test.want)
		}
		// What may be stored is what the server takes.
		if err := set.ValidateKey(&w.key); (err == nil) != (w.spend != nil) {
			t.Errorf("%s %s %v: stored: %v", test.plan, test.environment, test.overrides, err)
		}
	}
	// Where there are no environments, a record that names one is under every limit.
	w := goodWorld()
	w.request.Host, w.request.Target, w.request.Headers = "jobs.example.com", "/v1/jobs/1", []policy.Header{{"x-api-key", secret("jb_")}}
	w.key.API, w.key.Environment, w.key.Plan = "jobs", "live", "free"
	if d := w.decide(t, compiled(t, changed(t))); !d.Allow || len(w.spend.Windows) != 2 {
		t.Errorf("%s, spends %+v", d.Reason, w.spend)
	}
}

// The prefix of a secret says its environment as well as its record does.
func TestPrefixOfAnotherEnvironment(t *testing.T) {
	w := goodWorld()
	w.request.Host, w.key.Environment = "sandbox.example.com", "test"
	if d := w.decide(t, shopSet(t)); d.Reason != policy.WrongEnvironment {
		t.Errorf("%s, want wrong_environment", d.Reason)
	}
}

func TestFailureModes(t *testing.T) {
	set := shopSet(t)
	for plan, want := range map[string]policy.Reason{"closed": policy.Undecided, "open": policy.Allowed, "local": policy.Allowed} {
		w := goodWorld()
		w.key.Plan, w.spendErr = plan, errors.New("away")
		d := w.decide(t, set)
		if d.Reason != want {
			t.Errorf("%s: %s, want %s", plan, d.Reason, want)
		}
		if mode := d.Meta("failure_mode"); (mode == plan) != (want == policy.Allowed) {
			t.Errorf("%s: metadata %v", plan, d.Metadata)
		}
	}
	// local: 10 over two replicas.
	w := goodWorld()
	w.key.Plan, w.spendErr = "local", errors.New("away")
	var d *policy.Decision
	for range 6 {
		w.looked, w.spend = 0, nil
		d = w.decide(t, set)
	}
	if d.Reason != policy.RateLimited || header(d.Response, "x-ratelimit-remaining") != "0" || header(d.Response, "retry-after") != "30" {
		t.Errorf("%s %v", d.Reason, d.Response)
	}
	// A spend that cannot be carried out is no spend: no panic, no allow.
	w = goodWorld()
	w.key.Plan, w.spendErr, w.key.LimitID = "local", errors.New("away"), ""
	if d := w.decide(t, set); d.Reason != policy.CorruptKey {
		t.Errorf("empty limit id: %s", d.Reason)
	}
	// Nor are limits that are broken a store that is away.
	w = goodWorld()
	w.key.Plan, w.spendErr = "open", fmt.Errorf("spend: %w", &limits.BrokenError{Err: errors.New("no counter")})
	if d := w.decide(t, set); d.Reason != policy.CorruptKey {
		t.Errorf("broken limits: %s", d.Reason)
	}
}

// A key in a query that stays as it is would reach the application: it is refused before anything
// is asked or spent, on a public route too.
func TestFixedTarget(t *testing.T) {
	set := shopSet(t)
	for target, want := range map[string]policy.Reason{
		"/items?x=1": policy.Allowed, "/health?api_key=k": policy.MalformedCredential, "/items?api_key=" + secret("sk_live_"): policy.MalformedCredential,
	} {
		w := goodWorld()
		w.request.Target, w.request.TargetImmutable = target, true
		if d := w.decide(t, set); d.Reason != want || want != policy.Allowed && (w.looked > 0 || w.spend != nil) {
			t.Errorf("%s: %s", target, d.Reason)
		}
	}
}

// A result that does not answer the question is no answer.
func TestResultWithoutStates(t *testing.T) {
	set := shopSet(t)
	for _, res := range []limits.Result{{}, {Allowed: true}, {Allowed: true, States: make([]limits.State, 1)}, {States: make([]limits.State, 3)}} {
		w := goodWorld()
		var check policy.Check
		policy.NewDecider(keys.NewHasher(nil), w.local, clock).Begin(&check, set, &w.request)
		if wait := check.Found(*keys.NewGrant(&w.key), nil); wait != policy.WaitLimits {
			t.Fatal(wait)
		}
		*check.Result() = res
		check.Spent(nil)
		if d := check.Decision(); d.Allow || d.Reason != policy.CorruptKey {
			t.Errorf("%+v: %s", res, d.Reason)
		}
	}
	w := goodWorld()
	var check policy.Check
	policy.NewDecider(keys.NewHasher(nil), w.local, clock).Begin(&check, set, &w.request)
	check.Found(keys.Grant{}, nil)
	if d := check.Decision(); d.Reason != policy.Undecided {
		t.Errorf("no key and no error: %s", d.Reason)
	}
}

func TestUndecided(t *testing.T) {
	set := shopSet(t, "undecided: rpc")
	w := goodWorld()
	w.keyErr = errors.New("away")
	d := w.decide(t, set)
	if !d.FailRPC || d.Allow || d.Status != 0 || d.Body != nil || d.Response != nil || d.Meta("reason") != "undecided" {
		t.Errorf("%+v", d)
	}
	w = goodWorld()
	w.keyErr = &keys.CorruptError{ID: "key_0001"}
	if d := w.decide(t, set); d.FailRPC || d.Status != 503 || d.Reason != policy.CorruptKey {
		t.Errorf("a corrupt record is handed to Envoy's failure policy: %+v", d)
	}
	w = goodWorld()
	w.keyErr = keys.ErrBusy
	if d := w.decide(t, set); d.FailRPC || d.Status != 503 || d.Meta("reason") != "lookup_refused" {
		t.Errorf("guesses open Envoy's failure policy: %+v", d)
	}
	w = goodWorld()
	w.key.Status, w.spendErr = keys.Inactive, errors.New("away")
	if d := w.decide(t, set); d.Reason != policy.InactiveKey || header(d.Response, "x-ratelimit-limit") != "" {
		t.Errorf("a refusal needs no counters: %s %v", d.Reason, d.Response)
	}
}

func TestWindows(t *testing.T) {
	set := shopSet(t)
	w := goodWorld()
	w.key.Plan = "own"
	w.decide(t, set)
	if len(w.spend.Windows) != 1 || w.spend.Windows[0].Anchor != 20 {
		t.Errorf("month_anchor key: %+v", w.spend)
	}
	if policy.PlanWindows(set.APIs()[0], "own")[0].Anchor != 1 {
		t.Error("the plan itself was changed")
	}
	w = goodWorld()
	w.key.Plan = "unlimited"
	if d := w.decide(t, set); !d.Allow || w.spend != nil {
		t.Errorf("%s %+v", d.Reason, w.spend)
	}
	w = goodWorld()
	w.key.Limits, w.spent = []keys.Override{{Name: "minute", Requests: 5}}, 5
	if d := w.decide(t, set); d.Reason != policy.RateLimited || header(d.Response, "x-ratelimit-limit") != "5" {
		t.Errorf("override: %s %v", d.Reason, d.Response)
	}
	w = goodWorld()
	w.key.Scopes, w.request.Method = []string{"admin"}, "POST"
	if d := w.decide(t, set); !d.Allow || w.spend.Cost != 2 || header(d.Request, "x-authenticated-scope") != "write" {
		t.Errorf("%s %+v", d.Reason, w.spend)
	}
	// Without plans nothing is limited, and an override has nothing to override.
	none := compiled(t, shop[:strings.Index(shop, "plans:")]+"empty_scopes: all\n"+shopAnswers())
	w = goodWorld()
	w.key.Scopes = nil
	if d := w.decide(t, none); !d.Allow || w.spend != nil {
		t.Errorf("no plans: %s", d.Reason)
	}
	w.looked, w.key.Limits = 0, []keys.Override{{Name: "minute", Requests: 5}}
	if d := w.decide(t, none); d.Reason != policy.CorruptKey {
		t.Errorf("no plans, override: %s", d.Reason)
	}
}

func TestRefusalWithoutHeadersAsksNothing(t *testing.T) {
	set := compiled(t, strings.Replace(shop, "{family: x-ratelimit, ietf: true}", "{family: none}", 1)+shopAnswers())
	w := goodWorld()
	w.key.Status = keys.Inactive
	if d := w.decide(t, set); d.Reason != policy.InactiveKey || w.spend != nil {
		t.Errorf("%s, spend %+v", d.Reason, w.spend)
	}
	seconds := compiled(t, strings.Replace(shop, "{family: x-ratelimit, ietf: true}", "{family: x-ratelimit, reset: seconds}", 1)+shopAnswers())
	w = goodWorld()
	if d := w.decide(t, seconds); header(d.Response, "x-ratelimit-reset") != "30" || len(d.Response) != 3 {
		t.Errorf("%v", d.Response)
	}
}

func TestValidateKey(t *testing.T) {
	set := shopSet(t)
	for want, change := range map[string]func(*keys.Key){
		"":                          func(*keys.Key) {},
		`unknown api "x"`:           func(k *keys.Key) { k.API = "x" },
		`unknown environment "x"`:   func(k *keys.Key) { k.Environment = "x" },
		`unknown scope "x"`:         func(k *keys.Key) { k.Scopes = []string{"read", "x"} },
		`unknown plan "x"`:          func(k *keys.Key) { k.Plan = "x" },
		"limits name one that plan": func(k *keys.Key) { k.Limits = []keys.Override{{Name: "x"}} },
	} {
		k := goodWorld().key
		change(&k)
		err := set.ValidateKey(&k)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestNormalHost(t *testing.T) {
	for in, want := range map[string]string{
		"a.com": "a.com", "A.Com.": "a.com", "a.com:80": "a.com", "a.com:": "a.com", "a_b": "a_b", "[::1]": "[::1]", "[2001:DB8::1]:8443": "[2001:db8::1]",
		"": "", ":80": "", ".": "", "a,b": "", "a b": "", "a.com:8x": "", "a:1:2": "", "[::1": "", "[]": "", "[::1]x": "", "u@a.com": "", "a/b": "", "é": "", "a\x00": "", "a%2eb": "",
	} {
		got, ok := policy.NormalHost(in)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestKeyForm(t *testing.T) {
	optional := compiled(t, changed(t, "prefixes: [jb_]", "prefixes: [jb_], checksum: optional")).APIs()[0]
	bare := compiled(t, changed(t, "key_format: {prefixes: [jb_]}\n", "")).APIs()[0]
	for _, c := range []struct {
		api    *policy.API
		secret string
		want   bool
	}{
		{optional, "jb_legacy", true}, {optional, "jb_", false}, {optional, "xx_legacy", false},
		{bare, secret(""), true}, {bare, "legacy", false}, {bare, secret("jb_"), false},
	} {
		if got := policy.Resembles(c.api, c.secret); got != c.want {
			t.Errorf("%q: %v", c.secret, got)
		}
	}
}

func TestHeaderName(t *testing.T) {
	set := shopSet(t)
	for name, want := range map[string]string{
		"authorization": "authorization", "x-api-key": "x-api-key", "content-type": "content-type",
		"x-request-id": "x-request-id", "x_consumer_id": "x_consumer_id",
		"Authorization": "authorization", "X_Consumer_ID": "x_consumer_id",
		"cookie": "", "Cookie": "", "x-consumer-id": "", "x_other": "", "": "", "\xff": "",
		"x-forwarded-for": "", "x-envoy-external-address": "", // the address is the peer's
	} {
		if got := set.HeaderName([]byte(name)); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
	name := []byte("authorization")
	if n := testing.AllocsPerRun(100, func() { set.HeaderName(name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHeadersThatPoliciesRead(t *testing.T) {
	for text, want := range map[string][]string{
		"credentials: [{query: key}]":                                               nil,
		"credentials: [bearer]":                                                     {"authorization"},
		"credentials: [{header: X-Key}, {header: X-Second}]":                        {"x-key", "x-second"},
		"credentials: [{query: key}]\nclient_address: {from: peer}":                 nil,
		"credentials: [{query: key}]\nclient_address: {from: external-address}":     {"x-envoy-external-address"},
		"credentials: [{query: key}]\nclient_address: {from: xff, trusted_hops: 1}": {"x-forwarded-for"},
	} {
		for answers, more := range map[string][]string{
			shopAnswers(): {"x-request-id"},
			strings.ReplaceAll(shopAnswers(), "  request_id: requestId\n", ""): nil,
		} {
			set := compiled(t, "api: a\nhosts: [a.example.com]\n"+text+"\nkey_format: {prefixes: [ab_]}\nroutes:\n- {name: all, match: /, scope: none}\n"+answers)
			want := slices.Sorted(slices.Values(slices.Concat(want, more, []string{"content-type"})))
			if got := set.Headers(); !slices.Equal(got, want) {
				t.Errorf("%s, with %q: %q, want %q", text, more, got, want)
			}
		}
	}
}

// lawful states once more, and plainly, when a request may pass.
func lawful(w *world, mode string) bool {
	if !w.request.HTTP {
		return false
	}
	if w.request.Method == "GET" && w.request.Target == "/health" {
		return true // public, under both hosts
	}
	k := &w.key
	needs := map[string][]string{"/items": {"read", "write", "admin"}, "/any/x": {"read", "write", "admin"}}[w.request.Target]
	scope := slices.ContainsFunc(k.Scopes, func(s string) bool { return slices.Contains(needs, s) })
	address := len(k.IPs) == 0 || k.IPs[0].Contains(w.request.Peer)
	room := w.spendErr == nil && w.spent+1 <= 10 || w.spendErr != nil && mode != "closed"
	home := map[string]string{"live": "shop.example.com", "test": "sandbox.example.com"}[k.Environment]
	return w.request.Host == home && w.keyErr == nil && k.API == "shop" && k.Status == keys.Active &&
		(k.ExpiresAt.IsZero() || k.ExpiresAt.After(clock())) && address && scope && room &&
		len(w.request.Headers) == 1 && w.request.Headers[0].Value == "Bearer "+secret("sk_"+k.Environment+"_")
}

// shown prints a decision without what differs between two equal ones.
func shown(d *policy.Decision) string {
	text := fmt.Sprintf("%v %v %v %d %q %q %q %q %q %q", d.Reason, d.Allow, d.FailRPC, d.Status, d.Body, d.Response, d.Request, d.Remove, d.Target, d.Metadata)
	return strings.ReplaceAll(text, d.ID, "ID")
}

// A Check that is used again must decide as a new one does.
func TestAllowMeansLawful(t *testing.T) {
	set := shopSet(t)
	counts := map[bool]int{}
	var again policy.Check
	pick := func(t *rapid.T, name string, good, bad any) any {
		if rapid.IntRange(0, 11).Draw(t, name) == 0 {
			return bad
		}
		return good
	}
	property := func(t *rapid.T) {
		w := goodWorld()
		mode := rapid.SampledFrom([]string{"closed", "open", "local"}).Draw(t, "mode")
		token := pick(t, "token", secret("sk_live_"), rapid.SampledFrom([]string{"", "x", secret("pk_"), "sk_live_" + strings.Repeat("0", 33)}).Draw(t, "bad token")).(string)
		w.request.Headers = []policy.Header{{"authorization", "Bearer " + token}}
		if pick(t, "doubled", false, true).(bool) {
			w.request.Headers = append(w.request.Headers, policy.Header{"x-api-key", "other-secret"})
		}
		w.request.HTTP = pick(t, "http", true, false).(bool)
		w.request.Host = pick(t, "host", w.request.Host, "sandbox.example.com").(string)
		w.request.Method = pick(t, "method", "GET", "BREW").(string)
		w.request.Target = rapid.SampledFrom([]string{"/items", "/items", "/any/x", "/health", "/nope", "//items"}).Draw(t, "target")
		w.key.API = pick(t, "api", "shop", "other").(string)
		w.key.Environment = pick(t, "environment", "live", "test").(string)
		w.key.Status = pick(t, "status", keys.Active, rapid.SampledFrom([]keys.Status{keys.Inactive, keys.Revoked, keys.Deleted, ""}).Draw(t, "bad status")).(keys.Status)
		w.key.ExpiresAt = pick(t, "expiry", time.Time{}, clock().Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "seconds"))*time.Second)).(time.Time)
		w.key.IPs = pick(t, "ips", []netip.Prefix(nil), []netip.Prefix{netip.MustParsePrefix(rapid.SampledFrom([]string{"192.0.2.0/24", "10.0.0.0/8"}).Draw(t, "ip"))}).([]netip.Prefix)
		w.key.Scopes = rapid.SampledFrom([][]string{{"read"}, {"write"}, {"admin"}, {"x"}, nil}).Draw(t, "scopes")
		w.key.Plan = mode
		w.spent = int64(rapid.SampledFrom([]int{0, 9, 10, 50}).Draw(t, "spent"))
		if pick(t, "found", false, true).(bool) {
			w.keyErr = rapid.SampledFrom([]error{keys.ErrUnknown, errors.New("away"), &keys.CorruptError{}}).Draw(t, "key error")
		}
		if pick(t, "spend", false, true).(bool) {
			w.spendErr = errors.New("away")
		}
		fresh := *w
		fresh.local = limits.NewLocal(2, clock, 10)
		w.check = &again
		d := w.decide(t, set)
		if got, want := shown(d), shown(fresh.decide(t, set)); got != want {
			t.Fatalf("with a used Check: %s\nwith a new one:    %s", got, want)
		}
		anyMethod := w.request.Target == "/any/x" || w.request.Method == "GET"
		want := lawful(w, mode) && anyMethod
		counts[d.Allow]++
		if d.Allow != want {
			t.Fatalf("allow %v (%s), want %v", d.Allow, d.Reason, want)
		}
		if d.Allow != (d.Reason == policy.Allowed) || !d.Allow && d.Status < 400 {
			t.Fatalf("%+v", d)
		}
		if len(token) > 1 && strings.Contains(fmt.Sprintf("%+v %s", d, d.Body), token) {
			t.Fatalf("the secret is in %+v", d)
		}
		for _, h := range d.Request {
			if slices.Contains(d.Remove, h.Name) {
				t.Fatalf("%s is both set and removed", h.Name)
			}
		}
	}
	// About one case in seven is allowed: a hundred cases, which is one run, can hold fewer than
	// ten of them.
	for range 4 {
		rapid.Check(t, property)
	}
	if counts[true] < 10 || counts[false] < 10 {
		t.Errorf("too few cases of a kind: %v", counts)
	}
}

// A plan says whether its spends are counted in the store, each of them.
func TestPlanThatCountsExactly(t *testing.T) {
	for text, want := range map[string]bool{"": false, "counting: auto, ": false, "counting: exact, ": true} {
		set := compiled(t, strings.Replace(shop, "{name: closed, ", "{name: closed, "+text, 1)+shopAnswers())
		w := goodWorld()
		if d := w.decide(t, set); !d.Allow || w.spend.Exact != want {
			t.Errorf("%q: %s, exact is %v", text, d.Reason, w.spend.Exact)
		}
	}
}
