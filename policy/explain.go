package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/router"
)

// Explanation says how a decision came about. It is made of a Check that is done, so that deciding
// notes nothing for it.
type Explanation struct {
	Steps  []Step  // those that were taken, in their order; the last one decided
	Limits []Count // of the windows that the request spends, or whose counters its refusal shows
}

// Step is one step of a decision.
type Step struct {
	Name    string
	Verdict Verdict
	Text    string
	Rule    Rule // of the policy that says so; none where the policy says nothing about it
}

// Verdict is what a step came to.
type Verdict string

// The verdicts of steps.
const (
	StepPassed  Verdict = "ok"
	StepRefused Verdict = "refused"
	StepShadow  Verdict = "shadow" // it would refuse, and shadow_mode lets the request pass
	StepNoted   Verdict = "-"      // it decides nothing by itself
)

// Rule names a part of a policy file.
type Rule struct {
	Section Section
	// Name is that of the host, the environment, the scope, the route, the plan or the reason, or
	// the form of the credential; Limit that of a limit of the plan. "" where there is none.
	Name, Limit string
}

// Section is a field of a policy file.
type Section string

// The sections that decisions follow. NoSection is none.
const (
	NoSection           Section = ""
	APISection          Section = "api"
	HostsSection        Section = "hosts"
	CredentialsSection  Section = "credentials"
	KeyFormatSection    Section = "key_format"
	EnvironmentsSection Section = "environments"
	AddressSection      Section = "client_address"
	EmptyScopesSection  Section = "empty_scopes"
	ScopesSection       Section = "scopes"
	RoutesSection       Section = "routes"
	PreflightSection    Section = "preflight"
	PlansSection        Section = "plans"
	AnswersSection      Section = "errors.answers"
)

// Count is what a decision makes of one limit, in units of cost, or of the requests under way.
type Count struct {
	Name          string
	Limit         int64
	Per           string // the unit of the window; "" for requests under way
	Own           bool   // the key has more or less than its plan
	Before, After int64
	Reset         time.Time // the end of the window; zero for requests under way
	Verdict       Verdict
	Rule          Rule
}

// Explain says how the decision came about once the Check is Done.
func (c *Check) Explain() *Explanation {
	e := &explainer{Check: c, reason: c.decision.Judged(), refused: StepRefused}
	if c.decision.Shadow != Allowed {
		e.refused = StepShadow
	}
	for _, step := range []func() (goesOn bool){
		e.explainAPI, e.explainRoute, e.explainCredential, e.explainToken, e.explainKey, e.explainEnvironment, e.explainState,
		e.explainPlan, e.explainAddress, e.explainScope,
	} {
		if !step() {
			break
		}
	}
	e.explainLimits()
	if c.api != nil && e.reason != Allowed {
		e.add("answer", StepNoted, Rule{Section: AnswersSection, Name: e.reason.String()}, "%s", e.reason)
	}
	return &e.Explanation
}

// explainer walks the steps of a Check once more. Each of its methods adds a step, and reports
// whether the decision went on after it.
type explainer struct {
	*Check
	Explanation
	reason  Reason
	refused Verdict // of the step that decided
}

func (e *explainer) add(name string, v Verdict, r Rule, format string, args ...any) {
	e.Steps = append(e.Steps, Step{Name: name, Verdict: v, Text: fmt.Sprintf(format, args...), Rule: r})
}

// step adds a step that is refused if the decision is for one of these reasons.
func (e *explainer) step(name string, r Rule, passed, refused string, reasons ...Reason) (goesOn bool) {
	if slices.Contains(reasons, e.reason) {
		e.add(name, e.refused, r, "%s", refused)
		return false
	}
	e.add(name, StepPassed, r, "%s", passed)
	return true
}

func (e *explainer) explainAPI() bool {
	if e.api == nil {
		e.add("api", StepRefused, Rule{}, "no API has the host %q", e.request.Host[:min(len(e.request.Host), maxShown)])
		return false
	}
	if e.request.API.Given {
		e.add("api", StepPassed, Rule{Section: APISection}, "%s, named by the proxy", e.api.spec.Name)
	} else {
		e.add("api", StepPassed, Rule{HostsSection, e.host, ""}, "%s, by host %s", e.api.spec.Name, e.host)
	}
	return true
}

func (e *explainer) explainRoute() bool {
	if e.route == nil {
		e.add("route", StepNoted, Rule{}, "%s", e.noRoute())
		return true
	}
	rule, by := Rule{RoutesSection, e.route.Name, ""}, ""
	if e.request.Route.Given {
		by = ", named by the proxy"
	}
	switch {
	case e.reason == MalformedCredential && e.unstrippable():
		e.add("route", StepPassed, rule, "%s%s", e.route.Name, by)
	case e.isPreflight:
		e.add("route", StepPassed, Rule{Section: PreflightSection}, "the preflight of a request to %s: no key is needed", e.route.Name)
		return false
	case e.route.Public:
		e.add("route", StepPassed, rule, "%s%s, public: no key is needed", e.route.Name, by)
		return false
	default:
		e.add("route", StepPassed, rule, "%s%s, costs %d", e.route.Name, by, e.route.Cost)
	}
	return true
}

// noRoute says why no route matches. The path is the client's, and may be long.
func (e *explainer) noRoute() string {
	method, path := e.request.Method, e.path[:min(len(e.path), maxShown)]
	var buf [16]string
	segments, plain := router.Segments(e.path, buf[:0])
	switch {
	case !plain || !e.request.verbatim(e.path):
		return fmt.Sprintf("%q is a path that servers read in different ways: it matches no route", path)
	case !router.PlainQuery(e.query):
		return "the query is one that servers read in different ways: it matches no route"
	case method == "CONNECT" || !plainMethod(method):
		return fmt.Sprintf("method %q matches no route", method[:min(len(method), maxShown)])
	case e.request.Route.Given:
		return fmt.Sprintf("the policy has no route %q, which the proxy names", e.request.Route.Value)
	}
	text := fmt.Sprintf("no route matches %s %s", method, path)
	var others []string
	for _, other := range [...]string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if route := e.api.spec.Router.Find(other, segments); route != nil {
			others = append(others, other+" is "+route.Name)
		}
	}
	if len(others) > 0 {
		text += "; " + strings.Join(others, ", ")
	}
	return text
}

// unstrippable reports whether the key stands in a query that no proxy can take out of it.
func (e *explainer) unstrippable() bool {
	return e.cred.target != "" && (e.request.TargetImmutable || !e.request.verbatim(e.query))
}

func (e *explainer) explainCredential() bool {
	places := &e.api.spec.Credentials
	rule := Rule{CredentialsSection, places.held(e.request, &e.cred), ""}
	switch {
	case e.reason == MissingCredential:
		e.add("credential", e.refused, Rule{Section: CredentialsSection}, "no key in any place: %s", strings.Join(places.forms(), ", "))
		return false
	case e.reason == MalformedCredential && e.unstrippable():
		e.add("credential", e.refused, rule, "a key in a query from which the proxy cannot remove it")
		return false
	case e.reason == MalformedCredential && e.cred.state == malformed:
		e.add("credential", e.refused, rule, "two different keys, or one of more than %d bytes, or with bytes that no key has", maxSecret)
		return false
	case e.presentsToken():
		e.add("credential", StepPassed, Rule{Section: CredentialsSection}, "one access token")
		return true
	}
	e.add("credential", StepPassed, rule, "one key, in %s", rule.Name)
	refused := "not the form of the API's keys"
	if len(e.api.spec.Prefixes) > 0 {
		refused += ", which begin with " + strings.Join(e.api.spec.Prefixes, " or ")
	}
	if e.api.spec.Checksum {
		refused += " and end in a checksum"
	}
	return e.step("form", Rule{Section: KeyFormatSection}, "the form of the API's keys", refused+": the store was not asked", MalformedCredential)
}

// explainToken says what became of an access token.
func (e *explainer) explainToken() bool {
	if !e.presentsToken() {
		return true
	}
	if e.token == nil {
		text := "nobody has verified it"
		if e.tokenError != nil {
			text = strings.TrimPrefix(e.tokenError.Error(), "oauth: ")
		}
		e.add("token", e.refused, Rule{Section: CredentialsSection}, "%s", text)
		return false
	}
	e.add("token", StepPassed, Rule{CredentialsSection, "oauth2: " + e.token.Issuer.URL, ""}, "of client %s, until %s",
		e.token.Client, e.token.ExpiresAt.Format(time.RFC3339))
	return true
}

// held names the first place that holds the credential.
func (p *CredentialPlaces) held(r *Request, c *credential) string {
	if len(c.strip) == 0 {
		if len(p.Queries) == 0 {
			return ""
		}
		return "query: " + p.Queries[0]
	}
	if c.strip[0] != "authorization" {
		return "header: " + c.strip[0]
	}
	value, _ := r.header("authorization")
	scheme, _ := cutScheme(strings.Trim(value, " \t"))
	for _, s := range p.Schemes {
		if strings.EqualFold(s, scheme) {
			return "authorization: " + s
		}
	}
	return "authorization: none"
}

// forms lists the places, as the policy file names them.
func (p *CredentialPlaces) forms() (all []string) {
	for _, s := range p.Schemes {
		all = append(all, "authorization: "+s)
	}
	if p.Bare {
		all = append(all, "authorization: none")
	}
	for _, name := range p.Headers {
		all = append(all, "header: "+name)
	}
	for _, name := range p.Queries {
		all = append(all, "query: "+name)
	}
	if p.Tokens {
		all = append(all, "an access token in authorization: "+bearer)
	}
	return all
}

func (e *explainer) explainKey() bool {
	if e.key == nil && e.reason != WrongEnvironment {
		text := "the store knows no such key"
		switch {
		case e.reason == RevokedKey:
			text = fmt.Sprintf("%s is revoked, for good", e.grant.ID())
		case e.reason == CorruptKey && e.grant.Profile != nil:
			text = fmt.Sprintf("%s is of environment %q, which the policy does not have", e.grant.ID(), e.grant.Environment)
		case e.reason == CorruptKey:
			text = "its record cannot be used"
		case e.reason == LookupRefused:
			text = "the store was not asked: too many unknown keys came from there"
		case e.reason == Undecided:
			text = "the store did not answer in time"
		case e.grant.Profile != nil && e.grant.Status == keys.Deleted:
			text = fmt.Sprintf("%s was deleted", e.grant.ID())
		case e.grant.Profile != nil:
			text = fmt.Sprintf("%s is a key of api %s", e.grant.ID(), e.grant.API)
		}
		e.add(e.what(), e.refused, Rule{}, "%s", text)
		return false
	}
	if e.recordless {
		e.add(e.what(), StepPassed, Rule{}, "%s, of which the store has no record", e.grant.ID())
		return true
	}
	text := e.grant.ID()
	if team := e.grant.Team(); team != "" {
		text += " of team " + team
	}
	e.add(e.what(), StepPassed, Rule{}, "%s", text)
	return true
}

// what is the name of the step that finds who the request is from.
func (e *explainer) what() string {
	if e.token != nil {
		return "client"
	}
	return "key"
}

func (e *explainer) explainEnvironment() bool {
	if len(e.api.spec.Environments) == 0 {
		if e.reason == WrongEnvironment {
			e.add("environment", e.refused, Rule{}, "the proxy names the environment %q, and the API has none", e.request.Environment.Value)
			return false
		}
		return true
	}
	of, _ := e.api.spec.Environment(e.grant.Environment)
	rule := Rule{EnvironmentsSection, e.grant.Environment, ""}
	text := fmt.Sprintf("a key of %s", of.Name)
	switch {
	case e.reason != WrongEnvironment:
		e.add("environment", StepPassed, rule, "%s, accepted here", text)
		return true
	case of.accepts(e.request, e.host): // no token: those have no prefix
		text += ", which does not have its prefix " + of.Prefix
	case e.request.Environment.Given:
		text += fmt.Sprintf(", and the proxy says %q", e.request.Environment.Value)
	default:
		text += ", not accepted under host " + fmt.Sprintf("%q", e.host)
	}
	e.add("environment", e.refused, rule, "%s", text)
	return false
}

func (e *explainer) explainState() bool {
	end, text := e.key.End(), "switched on"
	if !end.IsZero() {
		text += ", until " + end.Format(time.RFC3339)
	}
	if e.reason == InactiveKey {
		return e.step("state", Rule{}, "", "switched off", InactiveKey)
	}
	return e.step("state", Rule{}, text, "expired, or retired by a rotation, at "+end.Format(time.RFC3339), ExpiredKey)
}

func (e *explainer) explainPlan() bool {
	name := e.key.Plan
	if len(e.api.spec.Plans) == 0 && e.reason != CorruptKey {
		return true
	}
	rule := Rule{PlansSection, name, ""}
	if e.access == InvalidToken {
		e.add("plan", e.refused, rule, "%s", strings.TrimPrefix(e.tokenError.Error(), "oauth: "))
		return false
	}
	if e.access != CorruptKey {
		e.add("plan", StepPassed, rule, "%s", name)
		return true
	}
	e.add("plan", e.refused, rule, "the policy has no plan %q, or the key has limits of its own that this does not have", name)
	return false
}

func (e *explainer) explainAddress() bool {
	rule, address := Rule{Section: AddressSection}, e.api.spec.Address.of(e.request)
	switch {
	case len(e.key.IPs) == 0:
		e.add("address", StepPassed, rule, "the key may be used from any address")
		return true
	case !address.IsValid():
		return e.step("address", rule, "", "the client's address is not known, and the key has a list of addresses", AddressDenied)
	}
	return e.step("address", rule, fmt.Sprintf("%s is on the key's list", address), fmt.Sprintf("%s is not on the key's list", address), AddressDenied)
}

func (e *explainer) explainScope() bool {
	switch {
	case e.route == nil:
		e.add("scope", e.refused, Rule{Section: RoutesSection}, "no route says which scope is needed")
		return false
	case e.route.Scope == "":
		e.add("scope", StepPassed, Rule{RoutesSection, e.route.Name, ""}, "the route needs none")
		return true
	case e.token != nil && len(e.key.Scopes) == 0:
		text := fmt.Sprintf("the route needs %s, and the token has no scope", e.route.Scope)
		return e.step("scope", Rule{ScopesSection, e.route.Scope, ""}, text, text, InsufficientScope)
	case len(e.key.Scopes) == 0:
		means := "none"
		if e.api.spec.EmptyScopesAll {
			means = "all"
		}
		text := fmt.Sprintf("the route needs %s, and a key without scopes has %s", e.route.Scope, means)
		return e.step("scope", Rule{Section: EmptyScopesSection}, text, text, ScopeDenied)
	}
	held := strings.Join(e.key.Scopes, ", ")
	for _, scope := range e.key.Scopes {
		if scope != e.route.Scope && slices.Contains(e.route.Grants, scope) {
			held = scope + ", which implies it"
		}
	}
	holder := "key"
	if e.token != nil {
		holder = "token"
	}
	text := fmt.Sprintf("the route needs %s, the %s has %s", e.route.Scope, holder, held)
	return e.step("scope", Rule{ScopesSection, e.route.Scope, ""}, text, text, ScopeDenied, InsufficientScope)
}

// explainLimits says what the counters were and are, where they were asked for.
func (e *explainer) explainLimits() {
	if e.key == nil || e.plan == nil {
		return
	}
	if e.access == Allowed {
		e.explainExempt()
	}
	if !e.counted {
		e.explainUncounted()
		return
	}
	for i, w := range e.spend.Windows {
		state := e.result.States[i]
		n := Count{
			Name: w.Name, Limit: w.Limit, Per: w.Per.String(), Before: state.Spent, After: state.Spent, Reset: state.Reset,
			Rule: Rule{PlansSection, e.key.Plan, w.Name},
		}
		if e.spends() {
			n.Before -= e.spend.Cost
		}
		n.Verdict = e.verdict(w.Denies(state, e.spend.Cost) && !e.spends(), e.spends() && w.WouldDeny(state, e.spend.Cost))
		e.count(n)
	}
	if e.spend.Slot.ID == "" {
		return
	}
	n := Count{
		Name: ConcurrentLimit, Limit: e.plan.concurrent(e.key.Limits, e.key.Extras, e.now), Before: e.result.InUse, After: e.result.InUse,
		Rule: Rule{PlansSection, e.key.Plan, ConcurrentLimit},
	}
	if e.spends() {
		n.Before--
	}
	n.Verdict = e.verdict(e.result.Full && !e.plan.Shadow, e.plan.Shadow && n.Before >= n.Limit)
	e.count(n)
}

// spends reports whether the request has spent of its limits.
func (e *explainer) spends() bool { return e.result.Allowed && !e.spend.ReadOnly }

// verdict is that of a limit, which decides only where everything else has passed.
func (e *explainer) verdict(denies, shadow bool) Verdict {
	switch {
	case e.access != Allowed:
		return StepNoted
	case denies:
		return e.refused
	case shadow:
		return StepShadow
	}
	return StepPassed
}

// count adds a limit, and the step that it is.
func (e *explainer) count(n Count) {
	n.Own = e.isOwn(n.Name)
	e.Limits = append(e.Limits, n)
	if n.Verdict == StepNoted {
		return
	}
	what := n.Name
	if n.Own {
		what += ", the key's own"
	}
	if n.Per == "" {
		e.add("limit", n.Verdict, n.Rule, "%s: %d of %d under way", what, n.Before, n.Limit)
		return
	}
	e.add("limit", n.Verdict, n.Rule, "%s: %d of %d in this %s spent, the request costs %d", what, n.Before, n.Limit, n.Per, e.spend.Cost)
}

// explainUncounted says what became of a request whose limits could not be asked, or has none.
func (e *explainer) explainUncounted() {
	rule := Rule{PlansSection, e.key.Plan, ""}
	switch {
	case e.access != Allowed || !e.spend.Asks():
	case e.reason == CorruptKey:
		e.add("limit", e.refused, rule, "a counter of the key is unusable")
	case e.reason == Undecided:
		e.add("limit", e.refused, rule, "the counters could not be asked")
	default:
		e.add("limit", StepPassed, rule, "the counters could not be asked; failure_mode %s", e.failureMode)
	}
}

// explainExempt names the quotas that keys of the environment do not spend.
func (e *explainer) explainExempt() {
	for _, name := range e.plan.in(e.env).Exempt {
		e.add("limit", StepNoted, Rule{PlansSection, e.key.Plan, name}, "%s: a quota, which keys of %s do not spend", name, e.env.Name)
	}
}

// isOwn reports whether the key has more or less of a limit than its plan.
func (e *explainer) isOwn(limit string) bool {
	for _, o := range e.key.Limits {
		if o.Name == limit {
			return true
		}
	}
	return extra(e.key.Extras, limit, e.now) > 0
}
