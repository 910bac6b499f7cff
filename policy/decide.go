// Package policy decides requests: a Set holds compiled policies and never changes, and a Check
// takes one request through it. Nothing here knows Envoy, Redis or files, and nothing blocks: a
// decision completes at once or says what it waits for, and its host (extauthz) fetches that. So it
// can run in other hosts too. The whole decision reads top-down in this file: credential.go finds
// the key in a request, token.go makes a key of an access token, identity.go tells the application
// who called, keyrules.go is what a policy asks of keys. spec.go is what a policy states (routes,
// plans, limits), and package policyfile makes that of files.
package policy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tollgate/policy/answer"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/oauth"
	"tollgate/policy/router"
)

// Decider holds what all decisions of a server share.
type Decider struct {
	hasher *keys.Hasher
	local  *limits.Local
	now    func() time.Time
}

// NewDecider returns a Decider. hasher turns secrets into look-up digests, local counts for plans
// with failure_mode local, now is the server's clock.
func NewDecider(hasher *keys.Hasher, local *limits.Local, now func() time.Time) *Decider {
	return &Decider{hasher: hasher, local: local, now: now}
}

// Local returns what counts for plans with failure_mode local.
func (d *Decider) Local() *limits.Local { return d.local }

// Wait says what a Check waits for.
type Wait uint8

const (
	// Done: Decision returns the answer.
	Done Wait = iota
	// WaitKey: look up Digest and hand the outcome to Found. It can follow on itself, with another
	// Digest.
	WaitKey
	// WaitToken: verify Token and hand the outcome to Verified.
	WaitToken
	// WaitLimits: carry out Spend and hand the outcome to Spent.
	WaitLimits
)

// Decision is the answer to one request, in terms of HTTP.
type Decision struct {
	// ID tells this decision from all others, in metadata and log lines.
	ID     string
	Reason Reason
	// Shadow is why the request would have been refused, where only shadow_mode let it pass; else
	// Allowed.
	Shadow Reason
	// Allow is true only where every step of the decision said so.
	Allow bool
	// FailRPC is set where the policy hands what is undecided to the proxy's own failure policy
	// (undecided: rpc). Everything below but Metadata is then unset.
	FailRPC bool

	// Status, Body and Response answer a denied request; Response also goes on the upstream's
	// response to an allowed one.
	Status   int
	Body     []byte
	Response []Header

	// Request headers are set, replacing the client's, on an allowed request; then those named by
	// Remove are taken away. No name is in both.
	Request []Header
	Remove  []string
	// Target replaces the request target of an allowed request; empty leaves it.
	Target string

	// Metadata describes the decision, allowed or not, without any secret.
	Metadata []Header
}

// Judged returns why the request is refused, or would be if shadow_mode did not let it pass; else
// Allowed.
func (d *Decision) Judged() Reason {
	if d.Shadow != Allowed {
		return d.Shadow
	}
	return d.Reason
}

// Meta returns a field of the metadata, or "".
func (d *Decision) Meta(name string) string {
	for _, m := range d.Metadata {
		if m.Name == name {
			return m.Value
		}
	}
	return ""
}

// Check is one decision under way. It is used by one goroutine. Its zero value is ready for Begin,
// and a host may use it again for the next decision, which then costs nearly no new memory.
type Check struct {
	decider *Decider
	set     *Set
	request *Request

	api         *API
	host        string
	path        string
	query       string
	route       *Route // nil: no route, or a path that no route may match
	isPreflight bool   // the request is a preflight, and the route that of what it asks about
	cred        credential
	digest      keys.Digest
	handle      string      // of a secret that is no known key's; "" until it is asked for
	olderHashes int         // older methods of hashing that the store was asked by
	grant       keys.Grant  // as the store said
	key         *keys.Grant // grant, once the key is known to this API and environment
	env         *Environment
	plan        *Plan
	token       *oauth.Token // once it is verified
	client      keys.Profile // of the token's client, where it has to be made
	tokenError  error        // why it was not
	recordless  bool         // the token's client has no record
	spend       limits.Spend
	result      limits.Result
	counted     bool // result is what the limits said
	now         time.Time

	// access is what steps 2 to 6 found; limits come after it.
	access      Reason
	failureMode string // failure_mode that let the request pass
	shadowLimit string // the limit that would have refused it

	decision   Decision
	texts      strings.Builder // of the texts that are made for this decision
	ownWindows []limits.Window // room for the windows of a key with overrides
}

// Begin starts the decision of c about r and takes it as far as it goes without waiting. What an
// earlier decision of c returned is void from now on.
func (d *Decider) Begin(c *Check, set *Set, r *Request) Wait {
	if c.decider != nil { // else Forget has done it, or nothing was decided yet
		c.reset()
	}
	c.decider, c.set, c.request, c.now = d, set, r, d.now()
	return c.identify()
}

// Forget drops all that c still refers to of its last decision, the secret first of all, for a host
// that keeps c for later. What the decision returned is void.
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
		cred:       credential{strip: c.cred.strip[:0]},
		result:     limits.Result{States: c.result.States[:0]},
		ownWindows: c.ownWindows[:0],
		decision: Decision{
			Body: c.decision.Body[:0], Response: c.decision.Response[:0], Request: c.decision.Request[:0],
			Remove: c.decision.Remove[:0], Metadata: c.decision.Metadata[:0],
		},
	}
}

// Digest returns what the store knows the presented secret by.
func (c *Check) Digest() keys.Digest { return c.digest }

// Caller returns who presented the secret, as far as that is known before its key is. Where the
// client's address is not known, the peer's still tells some callers apart.
func (c *Check) Caller() keys.Caller {
	address := c.api.spec.Address.of(c.request)
	if !address.IsValid() {
		address = plainAddr(c.request.Peer)
	}
	return keys.Caller{API: c.api.spec.Name, Address: address, More: c.olderHashes < c.decider.hasher.Older(), Verified: c.token != nil}
}

// Spend returns what to spend, or with ReadOnly to read, of the key's limits.
func (c *Check) Spend() *limits.Spend { return &c.spend }

// Result returns where the outcome of Spend is put before Spent. Its States have room from earlier
// decisions.
func (c *Check) Result() *limits.Result { return &c.result }

// Decision returns the answer once the Check is Done. It is void, with all that it refers to but
// texts, when c begins another one.
func (c *Check) Decision() *Decision { return &c.decision }

// Client returns the client's address, invalid where it is not known.
func (c *Check) Client() netip.Addr { return c.api.spec.Address.of(c.request) }

// Key returns the key of the request once it is known to the API and environment, else nil.
func (c *Check) Key() *keys.Grant { return c.key }

// API returns the API of the request, nil when there is none.
func (c *Check) API() *API { return c.api }

// Route returns the route of the request, nil if none matched.
func (c *Check) Route() *Route { return c.route }

// Plan returns the plan of the key, nil where no key is known or its plan is none of the policy.
func (c *Check) Plan() *Plan { return c.plan }

// Now returns when the decision began.
func (c *Check) Now() time.Time { return c.now }

// identify is steps 1 to 3: API, route, credential. Nothing is known yet about the key, and the
// store has not been asked.
func (c *Check) identify() Wait {
	if c.request.HTTP {
		c.api, c.host = c.set.find(c.request)
	}
	if c.api == nil {
		return c.deny(UnknownAPI)
	}
	c.path, c.query, _ = router.SplitTarget(c.request.Target)
	c.route = c.findRoute()
	c.api.spec.Credentials.read(c.request, &c.cred)
	if c.cred.target != "" && (c.request.TargetImmutable || !c.request.verbatim(c.query)) {
		return c.deny(MalformedCredential) // it would reach the application, or another query would
	}
	if c.route != nil && (c.route.Public || c.isPreflight) {
		return c.allow()
	}
	switch {
	case c.cred.state == missing:
		return c.deny(MissingCredential)
	case c.cred.state == malformed:
		return c.deny(MalformedCredential)
	case c.presentsToken():
		return WaitToken
	case !c.keyMayStandHere() || !c.api.resembles(c.cred.secret):
		return c.deny(MalformedCredential)
	}
	c.digest = c.decider.hasher.Digest(c.cred.secret)
	return WaitKey
}

// findRoute matches method and path, or takes the route that the proxy named. Odd paths are refused
// even then, because the application behind would still read them in its own way, and so is
// CONNECT, whose tunnel nobody could check.
func (c *Check) findRoute() *Route {
	var buf [16]string
	segs, ok := router.Segments(c.path, buf[:0])
	if !ok || !c.request.verbatim(c.path) || !router.PlainQuery(c.query) {
		return nil
	}
	if method, ok := c.preflight(); ok {
		if route := c.routeOf(method, segs); route != nil {
			c.isPreflight = true
			return route
		}
	}
	return c.routeOf(c.request.Method, segs)
}

// preflight returns the method of the request that a CORS preflight asks about. It is no preflight
// to us, but an ordinary request, where the policy does not make them public. A browser sends no
// key with it, and the page cannot make it send one.
func (c *Check) preflight() (method string, ok bool) {
	if !c.api.spec.PublicPreflights || c.request.Method != "OPTIONS" {
		return "", false
	}
	origin, _ := c.request.header(headerOrigin)
	method, ok = c.request.header(headerRequestedMethod)
	return method, ok && origin != ""
}

func (c *Check) routeOf(method string, segs []string) *Route {
	switch {
	case !plainMethod(method) || method == "CONNECT":
		return nil
	case c.request.Route.Given:
		return c.api.spec.Routes[c.request.Route.Value]
	}
	return c.api.spec.Router.Find(method, segs)
}

// Found continues with the outcome of the key look-up: steps 4 to 6. err is keys.ErrUnknown, a
// *keys.CorruptError, keys.ErrBusy, or says that the store did not answer; a Grant of no key is
// taken for that.
func (c *Check) Found(k keys.Grant, err error) Wait {
	if err != nil || k.Profile == nil {
		return c.notFound(err)
	}
	if c.token != nil {
		k = c.clientOf(k)
	}
	return c.found(k)
}

// found continues with the key or the client.
func (c *Check) found(k keys.Grant) Wait {
	c.grant = k
	c.access = c.judge(&c.grant)
	if c.key == nil {
		return c.deny(c.access)
	}
	refused := c.access != Allowed
	if !refused {
		c.wantSlot()
	}
	if !c.spend.Asks() || refused && !c.api.spec.RateHeaders.refused(c.access) {
		return c.conclude()
	}
	// A refused request of a known key reads the counters for its headers.
	c.spend.ID, c.spend.ReadOnly, c.spend.Exact = c.key.LimitID(), refused, c.plan.Exact
	c.spend.Cost = 1
	if c.route != nil {
		c.spend.Cost = c.route.Cost
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
	switch {
	case c.olderHashes < c.decider.hasher.Older():
	case c.token != nil:
		return c.found(c.clientWithoutRecord())
	default:
		return c.deny(UnknownKey)
	}
	c.digest = c.decider.hasher.OlderDigest(c.olderHashes, c.lookup())
	c.olderHashes++
	return WaitKey
}

// Rehash says, of an allowed request whose key was found by an older method of hashing, which key's
// digest should be replaced, and by which. The host does that when the request no longer waits.
func (c *Check) Rehash() (id string, from, to keys.Digest, ok bool) {
	if c.olderHashes == 0 || c.key == nil || c.recordless || !c.decision.Allow {
		return "", keys.Digest{}, keys.Digest{}, false
	}
	return c.key.ID(), c.digest, c.decider.hasher.Digest(c.lookup()), true
}

// Unplaced reports whether a key was refused because nothing in the request says for which
// environment it is, or it names one that the API does not have: then every key is refused, and the
// proxy's configuration is to blame.
func (c *Check) Unplaced() bool {
	if c.decision.Reason != WrongEnvironment && c.decision.Shadow != WrongEnvironment {
		return false
	}
	for i := range c.api.spec.Environments {
		if c.api.spec.Environments[i].accepts(c.request, c.host) {
			return false
		}
	}
	return true
}

// judge is the order of steps 4 to 6. It sets c.key as soon as the key is known: a record of this
// API and environment that is not revoked.
func (c *Check) judge(k *keys.Grant) Reason {
	switch {
	case k.API != c.api.spec.Name || k.Status == keys.Deleted:
		return UnknownKey
	case k.Status == keys.Revoked:
		return RevokedKey
	}
	e, ok := c.api.spec.Environment(k.Environment)
	switch {
	case !ok:
		return CorruptKey
	case !c.accepts(e) || e != nil && c.token == nil && !strings.HasPrefix(c.cred.secret, e.Prefix):
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
		return c.noPlan()
	case !k.Allows(c.api.spec.Address.of(c.request)):
		return AddressDenied
	case c.route == nil:
		return RouteDenied
	case c.token != nil && !c.tokenPermits():
		return InsufficientScope
	case c.token == nil && !c.api.permits(k, c.route):
		return ScopeDenied
	}
	return Allowed
}

// findWindows finds what the key spends. It reports false for a key whose plan or limits the policy
// does not know.
func (c *Check) findWindows() (ok bool) {
	if c.plan, ok = c.api.plan(c.key.Plan); ok {
		own := ownLimits{c.key.Limits, c.key.Extras, int(c.key.AnchorDay)}
		c.spend.Windows, ok = c.plan.windowsFor(c.env, own, c.now, &c.ownWindows)
	}
	return ok
}

// accepts reports whether the environment's keys are accepted here. An environment that Envoy names
// and the policy does not know is a denial.
func (c *Check) accepts(e *Environment) bool {
	if e != nil {
		return e.accepts(c.request, c.host)
	}
	return !c.request.Environment.Given
}

// Spent continues with the outcome of the limits, which is in Result if err is nil: step 7.
func (c *Check) Spent(err error) Wait {
	switch {
	case err == nil && len(c.result.States) == len(c.spend.Windows):
		c.counted = true
	case c.spend.ReadOnly:
		// Only the headers were wanted; the refusal stands without them.
	case err == nil || broken(err):
		return c.deny(CorruptKey) // failure_mode is for a store that is away
	default:
		return c.withoutLimits()
	}
	return c.conclude()
}

// broken reports whether an error says that the limits themselves are at fault.
func broken(err error) bool {
	var broken *limits.BrokenError
	return errors.As(err, &broken)
}

// withoutLimits is what the plan's failure_mode makes of limits that cannot be asked.
func (c *Check) withoutLimits() Wait {
	switch c.plan.FailureMode {
	case FailOpen:
		c.failureMode = FailOpen.String()
	case FailLocal:
		res := c.decider.local.Spend(&c.spend)
		if len(res.States) != len(c.spend.Windows) {
			return c.deny(CorruptKey) // a spend that cannot be carried out
		}
		c.result, c.counted, c.failureMode = res, true, FailLocal.String()
	default:
		if !c.limited() {
			return c.pass(Undecided)
		}
		return c.deny(Undecided)
	}
	return c.conclude()
}

// conclude answers once everything that was asked for is there.
func (c *Check) conclude() Wait {
	switch {
	case c.access != Allowed:
		return c.deny(c.access)
	case c.counted && !c.result.Allowed && !c.limited():
		return c.pass(c.exceeded()) // more are under way than can be told
	case c.counted && !c.result.Allowed:
		return c.deny(c.exceeded())
	case c.counted && c.plan.Shadows:
		return c.pass(c.wouldExceed())
	}
	return c.allow()
}

// exceeded tells a spent quota from a spent rate limit by the denying window.
func (c *Check) exceeded() Reason {
	if c.result.Full {
		return ConcurrencyExceeded
	}
	if w := c.denying(); w >= 0 && c.spend.Windows[w].Quota {
		return QuotaExceeded
	}
	return RateLimited
}

// denying returns the window that denies; of several one that does so for ever, else the one that
// takes longest to open again, which Retry-After speaks of.
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

// neverFits reports whether no retry can succeed, because the request costs more than a limit of
// the key is. The client is then not told when to come again.
func (c *Check) neverFits() bool {
	w := c.denying()
	return w >= 0 && !c.spend.Windows[w].Fits(c.spend.Cost)
}

// allow lets the request through, without its credential and with what the application needs to
// know of the caller.
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
	if c.Identified() {
		k := c.key
		team, name, id, plan, scope = k.Team(), k.Name(), k.ID(), k.Plan, c.route.Scope
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

// deny refuses the request with the answer that its API documents, unless that is a shadow.
func (c *Check) deny(r Reason) Wait {
	if c.api != nil && c.api.spec.Shadow {
		return c.pass(r)
	}
	d := &c.decision
	d.Reason = r
	// What nobody has verified yet may be forged, and forgers must not open the proxy's failure
	// policy.
	if r == Undecided && c.api.spec.UndecidedRPC && !c.unverified() {
		d.FailRPC = true
		c.describe()
		return Done
	}
	a := c.set.unknown
	if c.api != nil {
		a = c.api.spec.Answers[r]
	}
	v := c.values(r)
	body, retry := a.Body, r.Limited()
	if retry && c.neverFits() {
		body, retry = a.NoRetry, false
	}
	d.Status = a.Status
	contentType, _ := c.request.header("content-type")
	if answer.IsGRPC(contentType) {
		d.Body = a.Message.Render(d.Body, &v)
		d.Response = append(d.Response, Header{"content-type", "application/grpc"}, Header{"grpc-status", answer.GRPCStatus(a.Status)})
	} else {
		d.Body = body.Render(d.Body, &v)
		d.Response = append(d.Response, Header{"content-type", a.ContentType})
	}
	d.Response = append(d.Response, Header{"cache-control", "no-store"})
	if challenge := c.challenge(r, a); challenge != "" {
		d.Response = append(d.Response, Header{"www-authenticate", challenge})
	}
	if after := c.tokenRetry(r); after > 0 {
		d.Response = append(d.Response, Header{"retry-after", putInt(&c.texts, after)})
	}
	if retry {
		d.Response = append(d.Response, Header{"retry-after", putInt(&c.texts, v.RetryAfter)})
	}
	if c.api != nil && c.api.spec.DecisionHeader {
		d.Response = append(d.Response, Header{headerDecisionID, v.DecisionID})
	}
	c.limitHeaders()
	c.describe()
	return Done
}

// limitHeaders shows the limit with the fewest requests remaining, or the one that has refused the
// request.
func (c *Check) limitHeaders() {
	if !c.counted || c.key == nil {
		return
	}
	shown := limits.Tightest(c.spend.Windows, c.result.States)
	if denying := c.denying(); denying >= 0 && c.decision.Reason.Limited() {
		shown = denying
	}
	slots := c.spend.Slot.ID != "" && !c.plan.Shadow
	c.decision.Response = c.api.spec.RateHeaders.append(c.decision.Response, &c.texts, &c.spend, &c.result, shown, slots)
}

// values fills the slots of an answer.
func (c *Check) values(r Reason) answer.Values {
	v := answer.Values{Path: c.path, KeyID: c.keyID(), DecisionID: c.decisionID()}
	if c.key != nil {
		v.ExpiredAt = c.key.End()
	}
	if r == ExpiredToken {
		v.ExpiredAt = c.tokenExpiry()
	}
	if c.api != nil && c.api.spec.RequestID {
		if v.RequestID, _ = c.request.header(headerRequestID); v.RequestID == "" {
			v.RequestID = "req_" + v.DecisionID // so that a caller can always name the request
		}
	}
	if c.route != nil {
		v.Route, v.Scope = c.route.Name, c.route.Scope
	}
	if c.api != nil {
		v.Address = c.api.spec.Address.of(c.request)
	}
	if r.Limited() {
		v.RetryAfter = limits.RetryAfter(c.spend.Windows, c.result.States, c.spend.Cost, c.result.Now)
		if w := c.denying(); w >= 0 {
			v.Limit = c.spend.Windows[w].Name
		} else if r == ConcurrencyExceeded {
			v.Limit = ConcurrentLimit
		}
	}
	return v
}

// keyID is the id of a known key, else a handle by which the caller and the logs can speak of the
// same unknown secret.
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
		c.decision.ID = newDecisionID(&c.texts)
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
	if d.Shadow != Allowed {
		add("shadow", d.Shadow.String())
		add("shadow_limit", c.shadowLimit)
	}
	if c.api != nil {
		add("api", c.api.spec.Name)
	}
	if c.route != nil {
		add("route", c.route.Name)
		add("scope", c.route.Scope)
	}
	add("key_id", c.keyID())
	if c.token != nil {
		add("issuer", c.token.Issuer.URL)
		add("client", c.token.Client)
	}
	if c.key != nil {
		add("team", c.key.Team())
		add("plan", c.key.Plan)
		add("environment", c.key.Environment)
	}
	add("failure_mode", c.failureMode)
	if id, slot, ok := c.Slot(); ok {
		add("slot_id", slot)
		if id != c.keyID() {
			add("limit_id", id)
		}
	}
	if c.isPreflight {
		add("preflight", "true")
	}
	if d.Reason == UnknownAPI || d.Reason == WrongEnvironment || d.Shadow == WrongEnvironment {
		c.describePlace(add)
	}
}

// maxShown is how much of a name that a client may have chosen is shown, in bytes: the longest host
// name.
const maxShown = 253

// describePlace adds what the request said about where it belongs, and what the key is for, to a
// refusal that came from it.
func (c *Check) describePlace(add func(name, value string)) {
	add("host", c.shown(c.request.Host, maxShown))
	if c.api == nil {
		add("asked_api", c.shown(c.request.API.Value, maxShown))
		return
	}
	add("asked_environment", c.shown(c.request.Environment.Value, maxShown))
	add("key_environment", c.grant.Environment)
}

// newDecisionID returns 16 hexadecimal digits, which must be unique but may be guessed.
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
		text.Grow(textsSize)
	}
	start := text.Len()
	text.Write(b)
	return text.String()[start:]
}

// textsSize is enough for the texts of most decisions: an id and three numbers.
const textsSize = 64

// putInt is put of a number in decimal digits.
func putInt(text *strings.Builder, n int64) string {
	var digits [20]byte
	return put(text, strconv.AppendInt(digits[:0], n, 10))
}
