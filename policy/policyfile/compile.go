package policyfile

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/router"
)

// compile turns a document into what policy.New takes. Faults go to src, all of them; the result is
// only to be used when there are none.
func compile(doc *document, src *source) *policy.Spec {
	c := &compiler{doc: doc, src: src, spec: &policy.Spec{Name: doc.API}, realm: cmp.Or(doc.Realm, doc.API)}
	c.identity()
	c.credentials()
	c.keyFormat()
	c.address()
	c.scopes()
	c.routes()
	c.plans()
	c.alerts()
	c.concurrency()
	c.costs()
	c.oauth()
	c.failures()
	c.answers()
	c.rateHeaders()
	c.usage()
	c.errorLog()
	return c.spec
}

type compiler struct {
	doc   *document
	src   *source
	spec  *policy.Spec
	realm string // of WWW-Authenticate
	// implied holds what each scope implies in one step.
	implied map[string][]string
	grants  map[string][]string // the scopes that include a scope
}

func (c *compiler) fault(place, format string, args ...any) { c.src.fault(place, format, args...) }

func nameRule() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9._:-]{0,62}$`) }

// name checks a name that other parts of the file, keys and headers refer to.
func (c *compiler) name(place, kind, name string, seen map[string]bool) bool {
	switch {
	case name == "":
		c.fault(place, "%s without a name", kind)
	case !nameRule().MatchString(strings.ReplaceAll(name, "_", "-")):
		c.fault(place, "bad %s name %q, want a lower-case letter, then letters, digits and . _ : -", kind, name)
	case seen[name]:
		c.fault(place, "duplicate %s %q", kind, name)
	default:
		seen[name] = true
		return true
	}
	return false
}

func (c *compiler) identity() {
	if !regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`).MatchString(c.doc.API) {
		c.fault("api", "bad api name %q, want lower-case letters, digits and -", c.doc.API)
	}
	if !headerText(c.realm) || strings.ContainsAny(c.realm, `"\`) {
		c.fault("realm", "bad realm %q, want printable ASCII without quotes", c.realm)
	}
	seen := map[string]bool{}
	for i, host := range c.doc.Hosts {
		c.host(at("hosts", i, ""), host, seen)
	}
	c.environments(seen)
	c.spec.Shadow = c.doc.ShadowMode
}

func (c *compiler) host(place, host string, seen map[string]bool) {
	normal, ok := policy.NormalHost(host)
	switch {
	case !ok || normal != host:
		c.fault(place, "bad host %q, want lower case, without port or final dot", host)
	case seen[host]:
		c.fault(place, "duplicate host %q", host)
	default:
		seen[host] = true
		c.src.hosts[host] = place
		c.spec.Hosts = append(c.spec.Hosts, host)
	}
}

func (c *compiler) environments(hosts map[string]bool) {
	names, contexts := map[string]bool{}, map[string]bool{}
	for i, in := range c.doc.Environments {
		c.name(at("environments", i, "name"), "environment", in.Name, names)
		c.prefix(at("environments", i, "prefix"), in.Prefix)
		// A host that the API names already may be given to one environment.
		for j, host := range in.Hosts {
			place := at(at("environments", i, "hosts"), j, "")
			if slices.Contains(c.doc.Hosts, host) && !c.environmentHost(i, host) && !slices.Contains(in.Hosts[:j], host) {
				continue
			}
			c.host(place, host, hosts)
		}
		if in.Context != "" && contexts[in.Context] {
			c.fault(at("environments", i, "context"), "duplicate context %q", in.Context)
		}
		contexts[in.Context] = true
		c.spec.Environments = append(c.spec.Environments, policy.Environment{
			Index: i, Name: in.Name, Prefix: in.Prefix, Hosts: in.Hosts, Context: in.Context,
		})
	}
}

// spendsQuotas reports whether the keys of an environment spend quotas.
func (c *compiler) spendsQuotas(e policy.Environment) bool {
	quota := c.doc.Environments[e.Index].Quota
	return quota == nil || *quota
}

// environmentHost reports whether an environment before the i-th names host.
func (c *compiler) environmentHost(i int, host string) bool {
	for _, in := range c.doc.Environments[:i] {
		if slices.Contains(in.Hosts, host) {
			return true
		}
	}
	return false
}

func (c *compiler) prefix(place, prefix string) {
	if prefix == "" || len(prefix) > 32 || !policy.WellFormed(prefix) {
		c.fault(place, "bad prefix %q, want 1 to 32 characters of a key", prefix)
		return
	}
	for _, other := range c.spec.Prefixes {
		if strings.HasPrefix(prefix, other) || strings.HasPrefix(other, prefix) {
			c.fault(place, "prefix %q and prefix %q cannot be told apart", prefix, other)
			return
		}
	}
	c.spec.Prefixes = append(c.spec.Prefixes, prefix)
}

func (c *compiler) credentials() {
	if len(c.doc.Credentials) == 0 {
		c.fault("credentials", "no credentials: nothing could ever be allowed")
	}
	for i, in := range c.doc.Credentials {
		place := at("credentials", i, "")
		switch {
		case in.OAuth2 != nil && in.Authorization+in.Header+in.Query == "":
			c.spec.Credentials.Tokens = true // the rest is in oauth.go
		case in.OAuth2 != nil, moreThanOne(in.Authorization, in.Header, in.Query):
			c.fault(place, "one credential names several places: want each in one of its own")
		case in.Authorization != "":
			c.credentialScheme(place+".authorization", in.Authorization)
		case in.Header != "":
			c.credentialHeader(place+".header", in.Header)
		case in.Query != "":
			c.credentialQuery(place+".query", in.Query)
		default:
			c.fault(place, "empty credential, want %s", credentialForms)
		}
	}
}

func moreThanOne(names ...string) bool {
	return len(slices.DeleteFunc(names, func(s string) bool { return s == "" })) > 1
}

// credentialScheme adds a scheme of Authorization (RFC 9110 section 11.1), or with none a value
// without one.
func (c *compiler) credentialScheme(place, scheme string) {
	p := &c.spec.Credentials
	switch {
	case !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._~-]{0,31}$`).MatchString(scheme):
		c.fault(place, "bad scheme %q, want a word such as APIKEY, or none", scheme)
	case p.HasScheme(scheme), p.Bare && scheme == "none":
		c.fault(place, "duplicate credential %s", strings.ToLower(scheme))
	case scheme == "none":
		p.Bare = true
	default:
		p.Schemes = append(p.Schemes, scheme)
	}
}

func (c *compiler) credentialHeader(place, written string) {
	name := strings.ToLower(written)
	token := regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	switch {
	case !token.MatchString(name):
		c.fault(place, "bad header name %q, want letters, digits and -", written)
	case name == "authorization":
		c.fault(place, "header %q: use bearer, or {authorization: SCHEME or none}", written)
	case policy.ReservedHeader(name):
		c.fault(place, "header %q has another meaning", written)
	case slices.Contains(c.spec.Credentials.Headers, name):
		c.fault(place, "duplicate header %q", written)
	default:
		c.spec.Credentials.Headers = append(c.spec.Credentials.Headers, name)
	}
}

func (c *compiler) credentialQuery(place, name string) {
	switch {
	case !regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}$`).MatchString(name):
		c.fault(place, "bad query key %q", name)
	case slices.Contains(c.spec.Credentials.Queries, name):
		c.fault(place, "duplicate query key %q", name)
	default:
		c.spec.Credentials.Queries = append(c.spec.Credentials.Queries, name)
	}
}

func (c *compiler) keyFormat() {
	in := c.doc.KeyFormat
	place := func(path string) string {
		f := c.src.faultAt(c.src.token(path), "")
		return fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Column)
	}
	c.spec.ChecksumAt, c.spec.PrefixesAt = place("key_format.checksum"), place("key_format.prefixes")
	for i := range c.spec.Environments {
		c.spec.Environments[i].PrefixAt = place(at("environments", i, "prefix"))
	}
	c.spec.Checksum = c.choice("key_format.checksum", in.Checksum, "required", "optional") == "required"
	if len(c.doc.Environments) > 0 && len(in.Prefixes) > 0 {
		c.fault("key_format.prefixes", "prefixes belong to the environments here")
		return
	}
	for i, prefix := range in.Prefixes {
		c.prefix(at("key_format.prefixes", i, ""), prefix)
	}
}

// choice returns value if it is one of words, the first of which is the default.
func (c *compiler) choice(place, value string, words ...string) string {
	if value == "" {
		return words[0]
	}
	if !slices.Contains(words, value) {
		c.fault(place, "unknown value %q, want %s", value, strings.Join(words, " or "))
	}
	return value
}

// maxAddresses bounds what a record takes in the store and in the memory of each server.
const maxAddresses = 10_000

func (c *compiler) address() {
	in := c.doc.ClientAddress
	a := &c.spec.Address
	a.From = c.choice("client_address.from", in.From, policy.FromPeer, policy.FromExternal, policy.FromXFF)
	a.Hops = in.TrustedHops
	c.spec.MaxAddresses = keys.MaxAddresses
	if in.MaxAddresses != nil {
		c.spec.MaxAddresses = *in.MaxAddresses
		if n := *in.MaxAddresses; n < 1 || n > maxAddresses {
			c.fault("client_address.max_addresses", "max_addresses %d: want 1 to %d", n, maxAddresses)
		}
	}
	if in.TrustedHops < 0 || in.TrustedHops > 0 && a.From != policy.FromXFF {
		c.fault("client_address.trusted_hops", "trusted_hops %d: want 0 or more, and only with from: xff", in.TrustedHops)
	}
	if len(in.TrustedProxies) > 0 && a.From == policy.FromPeer {
		c.fault("client_address.trusted_proxies", "trusted_proxies mean nothing with from: peer")
	}
	for i, text := range in.TrustedProxies {
		prefix, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			c.fault(at("client_address.trusted_proxies", i, ""), "bad CIDR %q", text)
		case prefix.Masked() != prefix:
			c.fault(at("client_address.trusted_proxies", i, ""), "bad CIDR %q: bits below the mask are set, want %s", text, prefix.Masked())
		case prefix.Addr().Is4In6():
			c.fault(at("client_address.trusted_proxies", i, ""), "bad CIDR %q: write the IPv4 form", text)
		default:
			a.Proxies = append(a.Proxies, prefix)
		}
	}
}

// maxScopes keeps the time bounded that it takes to follow what implies what.
const maxScopes = 500

func (c *compiler) scopes() {
	c.spec.EmptyScopesAll = c.choice("empty_scopes", c.doc.EmptyScopes, "none", "all") == "all"
	c.spec.Scopes = map[string]bool{}
	for i, in := range c.doc.Scopes {
		if in.Name == "none" {
			c.fault(at("scopes", i, "name"), "bad scope name %q: it means no scope in a route", in.Name)
			continue
		}
		c.name(at("scopes", i, "name"), "scope", in.Name, c.spec.Scopes)
	}
	if len(c.doc.Scopes) > maxScopes {
		c.fault(at("scopes", maxScopes, ""), "%d scopes, more than %d", len(c.doc.Scopes), maxScopes)
		return
	}
	c.grants = map[string][]string{}
	c.implied = make(map[string][]string, len(c.doc.Scopes))
	for _, in := range c.doc.Scopes {
		c.implied[in.Name] = in.Implies
	}
	for i, in := range c.doc.Scopes {
		for j, implied := range in.Implies {
			if !c.spec.Scopes[implied] {
				c.fault(at(at("scopes", i, "implies"), j, ""), "unknown scope %q", implied)
			}
		}
		if c.reaches(in.Name, in.Name, map[string]bool{}) {
			c.fault(at("scopes", i, "implies"), "scope %q implies itself", in.Name)
		}
	}
}

// reaches reports whether a scope implies another, over any number of steps.
func (c *compiler) reaches(from, to string, seen map[string]bool) bool {
	for _, next := range c.implied[from] {
		if next == to {
			return true
		}
		if !seen[next] {
			seen[next] = true
			if c.reaches(next, to, seen) {
				return true
			}
		}
	}
	return false
}

func (c *compiler) routes() {
	if len(c.doc.Routes) == 0 {
		c.fault("routes", "no routes: nothing could ever be allowed")
	}
	r := router.NewBuilder[policy.Route]()
	seen := map[string]bool{}
	c.spec.Routes = make(map[string]*policy.Route, len(c.doc.Routes))
	for i, in := range c.doc.Routes {
		c.name(at("routes", i, "name"), "route", in.Name, seen)
		route := &policy.Route{Index: i, Name: in.Name, Cost: 1, Public: in.Public}
		route.NoSlot = c.choice(at("routes", i, "concurrent"), in.Slot, "one", "none") == "none"
		if in.Cost != nil {
			route.Cost = *in.Cost
			if route.Cost < 0 || route.Cost > maxUnits {
				c.fault(at("routes", i, "cost"), "cost %d: want 0 to %d", route.Cost, int64(maxUnits))
			}
		}
		c.routeScope(i, in, route)
		if err := r.Add(in.Match, route); err != nil {
			c.fault(at("routes", i, "match"), "%v", err)
		}
		c.spec.Routes[in.Name] = route
	}
	c.spec.Router = r.Router()
	c.spec.PublicPreflights = c.choice("preflight", c.doc.Preflight, "check", "public") == "public"
}

func (c *compiler) routeScope(i int, in routeIn, route *policy.Route) {
	switch {
	case in.Scope == "" && !in.Public:
		c.fault(at("routes", i, ""), "route %q has no scope decision: want scope: NAME, scope: none or public: true", in.Name)
	case in.Public && in.Scope != "" && in.Scope != "none":
		c.fault(at("routes", i, "scope"), "route %q is public and asks for scope %q", in.Name, in.Scope)
	case in.Scope == "" || in.Scope == "none":
	case !c.spec.Scopes[in.Scope]:
		c.fault(at("routes", i, "scope"), "unknown scope %q", in.Scope)
	default:
		route.Scope = in.Scope
		route.Grants = c.granting(in.Scope)
	}
}

// granting returns the scopes that include a scope, itself among them.
func (c *compiler) granting(scope string) []string {
	if known := c.grants[scope]; known != nil {
		return known
	}
	var grants []string
	for _, s := range c.doc.Scopes {
		if s.Name == scope || c.reaches(s.Name, scope, map[string]bool{}) {
			grants = append(grants, s.Name)
		}
	}
	c.grants[scope] = grants
	return grants
}

// maxUnits bounds limits and costs to integers that a Redis script, which computes with doubles,
// adds without loss.
const maxUnits = 1 << 50

func (c *compiler) plans() {
	seen := map[string]bool{}
	c.spec.Plans = make(map[string]*policy.Plan, len(c.doc.Plans))
	for i, in := range c.doc.Plans {
		c.name(at("plans", i, "name"), "plan", in.Name, seen)
		p := &policy.Plan{Index: i, KeyAnchor: in.MonthAnchor.Key}
		mode := c.choice(at("plans", i, "failure_mode"), in.FailureMode, "closed", "open", "local")
		p.FailureMode = map[string]policy.FailureMode{"open": policy.FailOpen, "local": policy.FailLocal}[mode]
		p.Exact = c.choice(at("plans", i, "counting"), in.Counting, "auto", "exact") == "exact"
		p.Shadow = in.ShadowMode || c.spec.Shadow
		c.concurrent(at("plans", i, "concurrent"), in, p)
		c.keyCaps(at("plans", i, "key_caps"), in.KeyCaps, p)
		if in.Limits == nil {
			c.fault(at("plans", i, ""), "plan %q without limits: want a list; limits: [] is unlimited", in.Name)
			continue
		}
		c.limits(at("plans", i, "limits"), in.Name, *in.Limits, max(in.MonthAnchor.Day, 1), p)
		p.Shadows = p.Shadows || p.Shadow
		p.Exact = p.Exact || p.Shadows // what leases hold would be taken for spent
		if in.ShadowMode && len(*in.Limits) == 0 && in.Concurrent == nil {
			c.fault(at("plans", i, "shadow_mode"), "shadow_mode of plan %q, which has no limits", in.Name)
		}
		c.spec.Plans[in.Name] = p
	}
}

// limits gives each environment the limits that are for its keys. Once a limit names environments,
// one of which no limit is left is taken for forgotten, not for unlimited.
func (c *compiler) limits(place, plan string, list []limitIn, anchor int, p *policy.Plan) {
	p.ByEnvironment = make([]policy.PlanLimits, len(c.spec.Environments))
	names, some := map[string]bool{}, false
	for i, in := range list {
		w := c.window(at(place, i, ""), in, names)
		w.Anchor, w.Shadow = anchor, p.Shadow || in.ShadowMode
		p.Shadows = p.Shadows || w.Shadow
		p.All.Windows = append(p.All.Windows, w)
		some = some || in.Environments != nil
		for _, e := range c.limitEnvironments(at(place, i, "environments"), in) {
			has := &p.ByEnvironment[e.Index]
			if w.Quota && !c.spendsQuotas(e) {
				has.Exempt = append(has.Exempt, w.Name)
				continue
			}
			has.Windows = append(has.Windows, w)
		}
	}
	for _, e := range c.spec.Environments {
		if some && len(p.ByEnvironment[e.Index].Windows) == 0 {
			c.fault(place, "plan %q has no limit that keys of environment %q spend: want one for it, or limits: [] for a plan without limits", plan, e.Name)
		}
	}
}

// limitEnvironments returns the environments whose keys a limit is for: all of them if it names
// none, and after a fault, so that this does not bring another.
func (c *compiler) limitEnvironments(place string, in limitIn) []policy.Environment {
	all := c.spec.Environments
	switch {
	case in.Environments == nil:
		return all
	case len(all) == 0:
		c.fault(place, "environments of limit %q: the api has no environments", in.Name)
		return all
	case len(*in.Environments) == 0:
		c.fault(place, "limit %q is for no environment: want names; without environments it is for all", in.Name)
		return all
	}
	var named []policy.Environment
	for i, name := range *in.Environments {
		e, known := c.spec.Environment(name)
		switch {
		case !known:
			c.fault(at(place, i, ""), "unknown environment %q%s", name, policy.Suggest(name, c.spec.EnvironmentNames()))
		case slices.Contains((*in.Environments)[:i], name):
			c.fault(at(place, i, ""), "duplicate environment %q of limit %q", name, in.Name)
		case in.Quota && !c.spendsQuotas(*e):
			c.fault(at(place, i, ""), "limit %q is a quota, and keys of environment %q spend none", in.Name, name)
		default:
			named = append(named, *e)
		}
	}
	if len(named) < len(*in.Environments) {
		return all
	}
	return named
}

// maxKeyCap bounds what a store counts through when a key is created.
const maxKeyCap = 1_000_000

func (c *compiler) keyCaps(place string, caps []keyCapIn, p *policy.Plan) {
	p.KeyCaps = make(map[string]int, len(caps))
	for i, in := range caps {
		_, known := c.spec.Environment(in.Environment)
		_, twice := p.KeyCaps[in.Environment]
		switch {
		case len(c.spec.Environments) == 0 && in.Environment != "":
			c.fault(at(place, i, "environment"), "environment %q: the api has no environments", in.Environment)
		case !known && in.Environment == "":
			c.fault(at(place, i, ""), "key cap without an environment")
		case !known:
			c.fault(at(place, i, "environment"), "unknown environment %q%s", in.Environment, policy.Suggest(in.Environment, c.spec.EnvironmentNames()))
		case twice:
			c.fault(at(place, i, ""), "duplicate key cap of environment %q", in.Environment)
		}
		switch {
		case in.Keys == nil:
			c.fault(at(place, i, ""), "key cap without keys")
		case *in.Keys < 0 || *in.Keys > maxKeyCap:
			c.fault(at(place, i, "keys"), "keys %d: want 0 to %d", *in.Keys, int64(maxKeyCap))
		default:
			p.KeyCaps[in.Environment] = int(*in.Keys)
		}
	}
}

func (c *compiler) window(place string, in limitIn, names map[string]bool) limits.Window {
	c.name(place+".name", "limit", in.Name, names)
	if in.Name == policy.ConcurrentLimit {
		c.fault(place+".name", "limit %q: keys override the plan's concurrent by this name", in.Name)
	}
	w := limits.Window{Name: in.Name, Quota: in.Quota}
	switch {
	case in.Requests == nil:
		c.fault(place, "limit %q without requests", in.Name)
	case *in.Requests < 0 || *in.Requests > maxUnits:
		c.fault(place+".requests", "requests %d: want 0 to %d", *in.Requests, int64(maxUnits))
	default:
		w.Limit = *in.Requests
	}
	per, ok := limits.ParseUnit(in.Per)
	if !ok {
		c.fault(place+".per", "unknown unit %q, want second, minute, hour, day or month", in.Per)
	}
	w.Per = per
	return w
}

// costs refuses a route that a plan could never admit. A limit of 0 admits nothing on purpose.
func (c *compiler) costs() {
	for i, route := range c.doc.Routes {
		if route.Cost == nil || route.Public {
			continue
		}
		for _, p := range c.doc.Plans {
			compiled := c.spec.Plans[p.Name]
			if compiled == nil {
				continue
			}
			for _, w := range compiled.All.Windows {
				if w.Limit > 0 && *route.Cost > w.Limit {
					c.fault(at("routes", i, "cost"), "cost %d is above limit %q of plan %q: %d", *route.Cost, w.Name, p.Name, w.Limit)
				}
			}
		}
	}
}

func (c *compiler) failures() {
	c.spec.UndecidedRPC = c.choice("undecided", c.doc.Undecided, "body", "rpc") == "rpc"
	c.spec.StaleFor = 5 * time.Minute
	if c.doc.StaleFor != "" {
		d, err := time.ParseDuration(c.doc.StaleFor)
		if err != nil || d < 0 {
			c.fault("stale_for", "bad duration %q, want a form such as 5m", c.doc.StaleFor)
		}
		c.spec.StaleFor = d
	}
}

func (c *compiler) rateHeaders() {
	in := c.doc.RateHeaders
	c.spec.RateHeaders = policy.RateHeaders{
		XRateLimit: c.choice("rate_headers.family", in.Family, "none", "x-ratelimit") == "x-ratelimit",
		Epoch:      c.choice("rate_headers.reset", in.Reset, "epoch", "seconds") == "epoch",
		IETF:       in.IETF,
		Usable:     c.choice("rate_headers.on", in.On, "known", "usable") == "usable",
	}
}

func (c *compiler) usage() {
	in, u := c.doc.Usage, policy.DefaultUsage()
	if in.SlowAfter != "" {
		d, err := time.ParseDuration(in.SlowAfter)
		if err != nil || d <= 0 {
			c.fault("usage.slow_after", "bad duration %q, want a form such as 2s", in.SlowAfter)
		}
		u.SlowAfter = d
	}
	for _, f := range []struct {
		name        string
		in, to      *int
		least, most int
	}{{"hours", in.Hours, &u.Hours, 24, 168}, {"days", in.Days, &u.Days, 7, 366}, {"months", in.Months, &u.Months, 1, 60}} {
		if f.in == nil {
			continue
		}
		if *f.in < f.least || *f.in > f.most {
			c.fault("usage."+f.name, "%s %d: want %d to %d", f.name, *f.in, f.least, f.most)
		}
		*f.to = *f.in
	}
	c.spec.Usage = u
}

func (c *compiler) errorLog() {
	in, l := c.doc.ErrorLog, policy.DefaultErrorLog()
	switch c.choice("error_log.addresses", in.Addresses, "full", "network", "none") {
	case "network":
		l.Addresses = policy.AddressNetwork
	case "none":
		l.Addresses = policy.AddressNone
	}
	if in.Days != nil {
		if l.Days = *in.Days; l.Days < 1 || l.Days > 366 {
			c.fault("error_log.days", "days %d: want 1 to 366", l.Days)
		}
	}
	c.spec.ErrorLog = l
}

// headerText reports whether s may stand in a header value of ours.
func headerText(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
