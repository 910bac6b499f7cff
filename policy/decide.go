// Package policy decides about requests: it compiles policy files into an
// immutable Set, and Check takes one request through it.
//
// The package knows neither Envoy nor Redis, and it never blocks: a decision
// completes at once or says what it waits for, and its host (extauthz) fetches
// that. The whole decision reads top-down in this file.
package policy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// Decider holds what all decisions of a server share.
type Decider struct {
	hasher *keys.Hasher
	local  *limits.Local
	now    func() time.Time
}

// NewDecider returns a Decider. hasher turns secrets into look-up digests, local
// counts for plans with failure_mode local, now is the server's clock.
func NewDecider(hasher *keys.Hasher, local *limits.Local, now func() time.Time) *Decider {
	return &Decider{hasher: hasher, local: local, now: now}
}

// Wait says what a Check waits for.
type Wait uint8

const (
	// Done: Decision returns the answer.
	Done Wait = iota
	// WaitKey: look up Digest and hand the outcome to Found. It can follow on
	// itself, with another Digest.
	WaitKey
	// WaitLimits: carry out Spend and hand the outcome to Spent.
	WaitLimits
)

// Check is one decision under way. It is used by one goroutine. Its zero value is
// ready for Begin, and a host may use it again for the next decision, which then
// costs nearly no new memory.
type Check struct {
	decider *Decider
	set     *Set
	request *Request

	api    *API
	host   string
	path   string
	query  string
	route  *Route // nil: no route, or a path that no route may match
	asked  bool   // the request is a preflight, and the route that of what it asks about
	cred   credential
	digest keys.Digest
	handle string      // of a secret that is no known key's; "" until it is asked for
	older  int         // older methods of hashing that the store was asked by
	grant  keys.Grant  // as the store said
	key    *keys.Grant // grant, once the key is known to this API and environment
	env    *env
	plan   *plan
	spend  limits.Spend
	result limits.Result
	looked bool // result is what the limits said
	now    time.Time

	// verdict is what steps 2 to 6 found; limits come after it.
	verdict Reason
	failure string // failure_mode that let the request pass

	decision Decision
	text     strings.Builder // of the texts that are made for this decision
	own      []limits.Window // room for the windows of a key with overrides
}

// Begin starts the decision of c about r and takes it as far as it goes without
// waiting. What an earlier decision of c returned is void from now on.
func (d *Decider) Begin(c *Check, set *Set, r *Request) Wait {
	if c.decider != nil { // else Forget has done it, or nothing was decided yet
		c.reset()
	}
	c.decider, c.set, c.request, c.now = d, set, r, d.now()
	return c.identify()
}

// Forget drops all that c still refers to of its last decision, the secret first of
// all, for a host that keeps c for later. What the decision returned is void.
func (c *Check) Forget() {
	d := &c.decision
	clear(d.Response)
	clear(d.Request)
	clear(d.Remove)
	clear(d.Metadata)
	c.reset()
}

// reset empties c but for the memory of its lists.
func (c *Check) reset() {
	*c = Check{
		cred:   credential{strip: c.cred.strip[:0]},
		result: limits.Result{States: c.result.States[:0]},
		own:    c.own[:0],
		decision: Decision{
			Body: c.decision.Body[:0], Response: c.decision.Response[:0], Request: c.decision.Request[:0],
			Remove: c.decision.Remove[:0], Metadata: c.decision.Metadata[:0],
		},
	}
}

// Digest returns what the store knows the presented secret by.
func (c *Check) Digest() keys.Digest { return c.digest }

// Caller returns who presented the secret, as far as that is known before its key is.
// Where the client's address is not known, the peer's still tells some callers apart.
func (c *Check) Caller() keys.Caller {
	address := c.api.address.of(c.request)
	if !address.IsValid() {
		address = plainAddr(c.request.Peer)
	}
	return keys.Caller{API: c.api.name, Address: address, More: c.older < c.decider.hasher.Older()}
}

// Spend returns what to spend, or with ReadOnly to read, of the key's limits.
func (c *Check) Spend() *limits.Spend { return &c.spend }

// Result returns where the outcome of Spend is put before Spent. Its States have
// room from earlier decisions.
func (c *Check) Result() *limits.Result { return &c.result }

// Decision returns the answer once the Check is Done. It is void, with all that it
// refers to but texts, when c begins another one.
func (c *Check) Decision() *Decision { return &c.decision }

// Key returns the key of the request once it is known to the API and environment,
// else nil.
func (c *Check) Key() *keys.Grant { return c.key }

// API returns the API of the request, nil when there is none.
func (c *Check) API() *API { return c.api }

// identify is steps 1 to 3: API, route, credential. Nothing is known yet about
// the key, and the store has not been asked.
func (c *Check) identify() Wait {
	if c.request.HTTP {
		c.api, c.host = c.set.find(c.request)
	}
	if c.api == nil {
		return c.deny(UnknownAPI)
	}
	c.path, c.query, _ = splitTarget(c.request.Target)
	c.route = c.findRoute()
	c.api.places.read(c.request, &c.cred)
	if c.cred.target != "" && (c.request.Fixed || !c.request.exact(c.query)) {
		return c.deny(MalformedCredential) // it would reach the application, or another query would
	}
	if c.route != nil && (c.route.public || c.asked) {
		return c.allow()
	}
	switch {
	case c.cred.state == missing:
		return c.deny(MissingCredential)
	case c.cred.state == malformed || !c.api.resembles(c.cred.secret):
		return c.deny(MalformedCredential)
	}
	c.digest = c.decider.hasher.Digest(c.cred.secret)
	return WaitKey
}

// findRoute matches method and path, or takes the route that the proxy named.
// Odd paths are refused even then, because the application behind would still
// read them in its own way, and so is CONNECT, whose tunnel nobody could check.
func (c *Check) findRoute() *Route {
	var buf [16]string
	segs, ok := segments(c.path, buf[:0])
	if !ok || !c.request.exact(c.path) || !plainQuery(c.query) {
		return nil
	}
	if method, ok := c.preflight(); ok {
		if route := c.routeOf(method, segs); route != nil {
			c.asked = true
			return route
		}
	}
	return c.routeOf(c.request.Method, segs)
}

func (c *Check) routeOf(method string, segs []string) *Route {
	switch {
	case !plainMethod(method) || method == "CONNECT":
		return nil
	case c.request.Route.Given:
		return c.api.routeNames[c.request.Route.Value]
	}
	return c.api.routes.find(method, segs)
}

// Found continues with the outcome of the key look-up: steps 4 to 6. err is
// keys.ErrUnknown, a *keys.CorruptError, keys.ErrBusy, or says that the store did
// not answer; a
// Grant of no key is taken for that.
func (c *Check) Found(k keys.Grant, err error) Wait {
	if err != nil || k.Profile == nil {
		return c.notFound(err)
	}
	c.grant = k
	c.verdict = c.judge(&c.grant)
	if c.key == nil {
		return c.deny(c.verdict)
	}
	refused := c.verdict != Allowed
	if len(c.spend.Windows) == 0 || refused && !c.api.headers.refused(c.verdict) {
		return c.conclude()
	}
	// A refused request of a known key reads the counters for its headers.
	c.spend.ID, c.spend.ReadOnly, c.spend.Exact = c.key.LimitID(), refused, c.plan.exact
	c.spend.Cost = 1
	if c.route != nil {
		c.spend.Cost = c.route.cost
	}
	return WaitLimits
}

// notFound continues where the look-up gave no key.
func (c *Check) notFound(err error) Wait {
	var corrupt *keys.CorruptError
	switch {
	case errors.Is(err, keys.ErrUnknown):
		return c.tryOlder()
	case errors.As(err, &corrupt):
		return c.deny(CorruptKey)
	case errors.Is(err, keys.ErrBusy):
		return c.deny(LookupRefused)
	default:
		return c.deny(Undecided)
	}
}

// tryOlder asks for the secret by the next older method of hashing.
func (c *Check) tryOlder() Wait {
	if c.older == c.decider.hasher.Older() {
		return c.deny(UnknownKey)
	}
	c.digest = c.decider.hasher.OlderDigest(c.older, c.cred.secret)
	c.older++
	return WaitKey
}

// Rehash says, of an allowed request whose key was found by an older method of
// hashing, which key's digest should be replaced, and by which. The host does
// that when the request no longer waits.
func (c *Check) Rehash() (id string, from, to keys.Digest, ok bool) {
	if c.older == 0 || c.key == nil || !c.decision.Allow {
		return "", keys.Digest{}, keys.Digest{}, false
	}
	return c.key.ID(), c.digest, c.decider.hasher.Digest(c.cred.secret), true
}

// judge is the order of steps 4 to 6. It sets c.key as soon as the key is known:
// a record of this API and environment that is not revoked.
func (c *Check) judge(k *keys.Grant) Reason {
	switch {
	case k.API != c.api.name || k.Status == keys.Deleted:
		return UnknownKey
	case k.Status == keys.Revoked:
		return RevokedKey
	}
	e, ok := c.api.environment(k.Environment)
	switch {
	case !ok:
		return CorruptKey
	case !c.accepts(e) || e != nil && !strings.HasPrefix(c.cred.secret, e.prefix):
		return WrongEnvironment
	}
	c.key, c.env = k, e
	limited := c.findWindows()
	switch {
	case k.Status != keys.Active:
		return InactiveKey
	case k.Expired(c.now):
		return ExpiredKey
	case !limited:
		return CorruptKey
	case !k.Allows(c.api.address.of(c.request)):
		return AddressDenied
	case c.route == nil:
		return RouteDenied
	case !c.api.permits(k, c.route):
		return ScopeDenied
	}
	return Allowed
}

// findWindows finds what the key spends. It reports false for a key whose plan or
// limits the policy does not know.
func (c *Check) findWindows() (ok bool) {
	if c.plan, ok = c.api.plan(c.key.Plan); ok {
		c.spend.Windows, ok = c.plan.windowsFor(c.env, c.key.Limits, int(c.key.AnchorDay), &c.own)
	}
	return ok
}

// accepts reports whether the environment's keys are accepted here. An
// environment that Envoy names and the policy does not know is a denial.
func (c *Check) accepts(e *env) bool {
	if e != nil {
		return e.accepts(c.request, c.host)
	}
	return !c.request.Environment.Given
}

// Spent continues with the outcome of the limits, which is in Result if err is nil:
// step 7.
func (c *Check) Spent(err error) Wait {
	switch {
	case err == nil && len(c.result.States) == len(c.spend.Windows):
		c.looked = true
	case c.spend.ReadOnly:
		// Only the headers were wanted; the refusal stands without them.
	case err == nil || broken(err):
		return c.deny(CorruptKey) // failure_mode is for a store that is away
	default:
		return c.unspent()
	}
	return c.conclude()
}

// broken reports whether an error says that the limits themselves are at fault.
func broken(err error) bool {
	var broken *limits.BrokenError
	return errors.As(err, &broken)
}

// unspent is what the plan's failure_mode makes of limits that cannot be asked.
func (c *Check) unspent() Wait {
	switch c.plan.failureMode {
	case failOpen:
		c.failure = failOpen.String()
	case failLocal:
		res := c.decider.local.Spend(&c.spend)
		if len(res.States) != len(c.spend.Windows) {
			return c.deny(CorruptKey) // a spend that cannot be carried out
		}
		c.result, c.looked, c.failure = res, true, failLocal.String()
	default:
		return c.deny(Undecided)
	}
	return c.conclude()
}

// conclude answers once everything that was asked for is there.
func (c *Check) conclude() Wait {
	switch {
	case c.verdict != Allowed:
		return c.deny(c.verdict)
	case c.looked && !c.result.Allowed:
		return c.deny(c.exceeded())
	}
	return c.allow()
}

// exceeded tells a spent quota from a spent rate limit by the denying window.
func (c *Check) exceeded() Reason {
	if w := c.denying(); w >= 0 && c.spend.Windows[w].Quota {
		return QuotaExceeded
	}
	return RateLimited
}

// denying returns the window that denies; of several one that does so for ever,
// else the one that takes longest to open again, which Retry-After speaks of.
func (c *Check) denying() int {
	last, ever := -1, true
	for i, w := range c.spend.Windows {
		state, fits := c.result.States[i], w.Fits(c.spend.Cost)
		if !w.Denies(state, c.spend.Cost) || last >= 0 && fits && !ever {
			continue
		}
		if last < 0 || ever && !fits || state.Reset.After(c.result.States[last].Reset) {
			last, ever = i, fits
		}
	}
	return last
}

// hopeless reports whether no retry can succeed, because the request costs more
// than a limit of the key is. The client is then not told when to come again.
func (c *Check) hopeless() bool {
	w := c.denying()
	return w >= 0 && !c.spend.Windows[w].Fits(c.spend.Cost)
}

// allow lets the request through, without its credential and with what the
// application needs to know of the caller.
func (c *Check) allow() Wait {
	d := &c.decision
	d.Reason, d.Allow = Allowed, true
	d.Target = c.cred.target
	d.Remove = append(d.Remove, c.cred.strip...)
	set := func(name, value string) {
		if value == "" {
			d.Remove = append(d.Remove, name)
			return
		}
		d.Request = append(d.Request, Header{name, value})
	}
	var team, name, id, plan, scope string
	if k := c.key; k != nil {
		team, name, id, plan, scope = k.Team(), k.Name(), k.ID(), k.Plan, c.route.scope
	}
	set(headerConsumerID, team)
	set(headerConsumerName, name)
	set(headerCredentialID, id)
	set(headerPlan, plan)
	set(headerScope, scope)
	d.Remove = append(d.Remove, headerFailureMode, headerMethodOverride, headerHTTPMethod, headerShortOverride)
	for _, h := range c.request.Headers {
		if withheldAlias(h.Name) {
			d.Remove = append(d.Remove, h.Name)
		}
	}
	c.limitHeaders()
	c.describe()
	return Done
}

// deny refuses the request with the answer that its API documents.
func (c *Check) deny(r Reason) Wait {
	d := &c.decision
	d.Reason = r
	if r == Undecided && c.api.rpcUndecided {
		d.FailRPC = true
		c.describe()
		return Done
	}
	a := c.set.unknown
	if c.api != nil {
		a = c.api.answers[r]
	}
	v := c.values(r)
	body, retry := a.body, r.limited()
	if retry && c.hopeless() {
		body, retry = a.hopeless, false
	}
	d.Status = a.status
	contentType, _ := c.request.header("content-type")
	if grpcRequest(contentType) {
		d.Body = a.message.render(d.Body, &v)
		d.Response = append(d.Response, Header{"content-type", "application/grpc"}, Header{"grpc-status", grpcStatus(a.status)})
	} else {
		d.Body = body.render(d.Body, &v)
		d.Response = append(d.Response, Header{"content-type", a.contentType})
	}
	d.Response = append(d.Response, Header{"cache-control", "no-store"})
	if a.challenge != "" {
		d.Response = append(d.Response, Header{"www-authenticate", a.challenge})
	}
	if retry {
		d.Response = append(d.Response, Header{"retry-after", putInt(&c.text, v.retryAfter)})
	}
	c.limitHeaders()
	c.describe()
	return Done
}

// limitHeaders shows the limit with the fewest requests remaining, or the one that
// has refused the request.
func (c *Check) limitHeaders() {
	if !c.looked || c.key == nil {
		return
	}
	shown := limits.Tightest(c.spend.Windows, c.result.States)
	if c.decision.Reason.limited() {
		shown = c.denying()
	}
	c.decision.Response = c.api.headers.append(c.decision.Response, &c.text, c.spend.Windows, &c.result, shown)
}

// values fills the placeholders of an answer.
func (c *Check) values(r Reason) values {
	v := values{path: c.path, keyID: c.keyID(), key: c.key}
	if c.api != nil && c.api.requestID {
		if v.requestID, _ = c.request.header("x-request-id"); v.requestID == "" {
			v.requestID = "req_" + c.decisionID() // so that a caller can always name the request
		}
	}
	if c.route != nil {
		v.route, v.scope = c.route.name, c.route.scope
	}
	if c.api != nil {
		v.address = c.api.address.of(c.request)
	}
	if r.limited() {
		v.retryAfter = limits.RetryAfter(c.spend.Windows, c.result.States, c.spend.Cost, c.result.Now)
		if w := c.denying(); w >= 0 {
			v.limit = c.spend.Windows[w].Name
		}
	}
	return v
}

// keyID is the id of a known key, else a handle by which the caller and the logs
// can speak of the same unknown secret.
func (c *Check) keyID() string {
	switch {
	case c.key != nil:
		return c.key.ID()
	case c.cred.secret != "" && c.handle == "":
		c.handle = c.decider.hasher.Handle(c.cred.secret)
	}
	return c.handle
}

// decisionID returns the id of the decision, which is made when it is first asked for.
func (c *Check) decisionID() string {
	if c.decision.ID == "" {
		c.decision.ID = newDecisionID(&c.text)
	}
	return c.decision.ID
}

// describe fills the metadata: of every decision, without any secret.
func (c *Check) describe() {
	d := &c.decision
	add := func(name, value string) {
		if value != "" {
			d.Metadata = append(d.Metadata, Header{name, value})
		}
	}
	add("decision_id", c.decisionID())
	add("reason", d.Reason.String())
	if c.api != nil {
		add("api", c.api.name)
	}
	if c.route != nil {
		add("route", c.route.name)
		add("scope", c.route.scope)
	}
	add("key_id", c.keyID())
	if c.key != nil {
		add("team", c.key.Team())
		add("plan", c.key.Plan)
		add("environment", c.key.Environment)
	}
	add("failure_mode", c.failure)
	if c.asked {
		add("preflight", "true")
	}
	if d.Reason == UnknownAPI || d.Reason == WrongEnvironment {
		c.describePlace(add)
	}
}

// newDecisionID returns 16 hexadecimal digits. They need be unlike, not secret.
func newDecisionID(text *strings.Builder) string {
	var b [8]byte
	var digits [16]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64())
	hex.Encode(digits[:], b[:])
	return put(text, digits[:])
}

// put appends a text to those of a decision, which share their memory.
func put(text *strings.Builder, b []byte) string {
	if text.Len() == 0 {
		text.Grow(textRoom)
	}
	start := text.Len()
	text.Write(b)
	return text.String()[start:]
}

// textRoom is enough for the texts of most decisions: an id and three numbers.
const textRoom = 64

// putInt is put of a number in decimal digits.
func putInt(text *strings.Builder, n int64) string {
	var digits [20]byte
	return put(text, strconv.AppendInt(digits[:0], n, 10))
}
