package policyfile

import (
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// document is a policy file as it is written. It is only ever read by compile, which turns it into
// a policy.Spec. The tags become the JSON Schema that `tollgate policy schema` prints.
type document struct {
	API           string         `yaml:"api" jsonschema:"required,pattern=^[a-z][a-z0-9-]*$" jsonschema_description:"Name of the API. Envoy's context_extensions may name it."`
	Realm         string         `yaml:"realm,omitempty" jsonschema_description:"Realm of WWW-Authenticate. Default: the API's name."`
	Hosts         []string       `yaml:"hosts,omitempty" jsonschema_description:"Hosts of the API, lower case, without a port. May be empty where Envoy names the API."`
	Credentials   []credentialIn `yaml:"credentials" jsonschema:"required,minItems=1" jsonschema_description:"Places where a key may stand: bearer, authorization: SCHEME or none, header: NAME, query: NAME. oauth2: whose access tokens are taken, as Authorization: Bearer."`
	Resource      string         `yaml:"resource,omitempty" jsonschema_description:"URL of the API as clients of oauth2 know it (RFC 9728). They are told where its metadata is, which tollgate policy render makes."`
	KeyFormat     keyFormatIn    `yaml:"key_format,omitempty" jsonschema_description:"What a key looks like. Anything else is refused without asking the store."`
	Environments  []environment  `yaml:"environments,omitempty" jsonschema_description:"Environments, each with its key prefix and where its keys are accepted."`
	ClientAddress addressIn      `yaml:"client_address,omitempty" jsonschema_description:"Which address a key's IP list is compared with."`
	Preflight     string         `yaml:"preflight,omitempty" jsonschema:"enum=check,enum=public" jsonschema_description:"What becomes of CORS preflights (OPTIONS with Origin and Access-Control-Request-Method). check: they need a key as every request does. public: they pass without one where the request that they ask about has a route; the application, or a proxy before Tollgate, answers them. Default: check."`
	Scopes        []scopeIn      `yaml:"scopes,omitempty" jsonschema_description:"Scopes that keys may hold and routes may ask for."`
	EmptyScopes   string         `yaml:"empty_scopes,omitempty" jsonschema:"enum=all,enum=none" jsonschema_description:"What a key without scopes may do. Default: none."`
	Routes        []routeIn      `yaml:"routes" jsonschema:"required,minItems=1" jsonschema_description:"Routes in Go ServeMux syntax. What no route matches is denied."`
	ShadowMode    bool           `yaml:"shadow_mode,omitempty" jsonschema_description:"Refuse nothing, whatever is wrong with a request, its key included: say what would be refused. A request without a valid key reaches the application without identity headers. Default: false."`
	Concurrency   concurrencyIn  `yaml:"concurrency,omitempty" jsonschema_description:"How requests under way are followed, where a plan limits them."`
	Plans         []planIn       `yaml:"plans,omitempty" jsonschema_description:"Plans and their limits. Without any plan nothing is limited."`
	Undecided     string         `yaml:"undecided,omitempty" jsonschema:"enum=body,enum=rpc" jsonschema_description:"What happens when the store cannot be asked in time: the API's own 5xx body, or an RPC error so that Envoy's failure_mode_allow and status_on_error decide. Default: body."`
	StaleFor      string         `yaml:"stale_for,omitempty" jsonschema_description:"How long known keys go on while the store is away. Go duration. Default: 5m."`
	Errors        errorsIn       `yaml:"errors" jsonschema:"required" jsonschema_description:"How each refusal is answered."`
	RateHeaders   rateHeadersIn  `yaml:"rate_headers,omitempty" jsonschema_description:"Rate-limit response headers."`
	Usage         usageIn        `yaml:"usage,omitempty" jsonschema_description:"What is kept of who used what."`
	ErrorLog      errorLogIn     `yaml:"error_log,omitempty" jsonschema_description:"What is kept of requests that were refused or failed."`
	Alerts        alertsIn       `yaml:"alerts,omitempty" jsonschema_description:"When somebody is told of a key."`
}

type alertsIn struct {
	Quota               *[]int         `yaml:"quota,omitempty" jsonschema:"maxItems=10,uniqueItems=true" jsonschema_description:"Shares of a limit per day or month, in percent, 1 to 100 and ascending. Each is told of once a window. Default: none, in a plan those of the API."`
	ExpiringDays        *int           `yaml:"expiring_within_days,omitempty" jsonschema:"minimum=1,maximum=366" jsonschema_description:"So many days before its expiry a key is told of. Default: never."`
	RotateDays          *int           `yaml:"rotate_after_days,omitempty" jsonschema:"minimum=1,maximum=3650" jsonschema_description:"A key that is so many days old, and not replaced by another, is told of, and again when it is twice as old. Default: never."`
	UnusedDays          *int           `yaml:"unused_for_days,omitempty" jsonschema:"minimum=1,maximum=366" jsonschema_description:"A key that was not used for so many days is told of, and again after as many more. Default: never."`
	ErrorRate           *errorRateIn   `yaml:"error_rate,omitempty" jsonschema_description:"When somebody is told that requests of a key, or of the whole API, fail. Default: never."`
	DeniedSpike         *deniedSpikeIn `yaml:"denied_spike,omitempty" jsonschema_description:"When somebody is told that many more requests of a key, or without a valid key, are refused than before. Default: never."`
	NewNetworkAfterDays *int           `yaml:"new_network_after_days,omitempty" jsonschema:"minimum=0,maximum=90" jsonschema_description:"A key that is used from a network (/24, or /48 of IPv6) for the first time in 90 days is told of, from so many days after its first use that was noted. 0: from the second network on. Default: never."`
	ReleasesLost        bool           `yaml:"releases_lost,omitempty" jsonschema_description:"Whether somebody is told that over 1 % of the places of requests under way end by themselves, because the access log does not tell of their end. Default: false."`
}

type errorRateIn struct {
	Percent  *int `yaml:"percent" jsonschema:"required,minimum=1,maximum=100" jsonschema_description:"Share of the requests within ten minutes that the access log says have ended with 5xx."`
	Requests *int `yaml:"requests,omitempty" jsonschema:"minimum=1,maximum=1000000" jsonschema_description:"Requests that must have ended within that time at least. Default: 50."`
}

type deniedSpikeIn struct {
	Times    *int `yaml:"times" jsonschema:"required,minimum=2,maximum=1000" jsonschema_description:"So many times as many requests must be refused within ten minutes as in the ten minutes before."`
	Requests *int `yaml:"requests,omitempty" jsonschema:"minimum=1,maximum=1000000" jsonschema_description:"Requests that must be refused within that time at least. Default: 100."`
}

type planAlertsIn struct {
	Quota *[]int `yaml:"quota,omitempty" jsonschema:"maxItems=10,uniqueItems=true" jsonschema_description:"Shares of a limit per day or month, in percent, 1 to 100 and ascending. Each is told of once a window. Default: none, in a plan those of the API."`
}

type errorLogIn struct {
	Addresses string `yaml:"addresses,omitempty" jsonschema:"enum=full,enum=network,enum=none" jsonschema_description:"What is kept of clients' addresses. network: the /24 of an IPv4 address, the /48 of an IPv6 one. Default: full."`
	Days      *int   `yaml:"days,omitempty" jsonschema:"minimum=1,maximum=366" jsonschema_description:"After how many days an entry is gone. Default: 35."`
}

type usageIn struct {
	SlowAfter string `yaml:"slow_after,omitempty" jsonschema_description:"Requests that take longer count as slow. Go duration. Default: 1s."`
	Hours     *int   `yaml:"hours,omitempty" jsonschema:"minimum=24,maximum=168" jsonschema_description:"How many hours after its end a day can be told by hour. Default: 48."`
	Days      *int   `yaml:"days,omitempty" jsonschema:"minimum=7,maximum=366" jsonschema_description:"How many days after its end a month can be told by day. Default: 35."`
	Months    *int   `yaml:"months,omitempty" jsonschema:"minimum=1,maximum=60" jsonschema_description:"How many months are kept, beside the current one. Default: 13."`
}

type keyFormatIn struct {
	Prefixes []string `yaml:"prefixes,omitempty" jsonschema_description:"Prefixes of keys, where there are no environments."`
	Checksum string   `yaml:"checksum,omitempty" jsonschema:"enum=required,enum=optional" jsonschema_description:"Whether a key must end in its checksum. optional admits imported legacy keys. Default: required."`
}

type environment struct {
	Name    string   `yaml:"name" jsonschema:"required" jsonschema_description:"Name of the environment, as keys give it."`
	Prefix  string   `yaml:"prefix" jsonschema:"required" jsonschema_description:"Prefix of the environment's keys."`
	Hosts   []string `yaml:"hosts,omitempty" jsonschema_description:"Hosts under which the keys are accepted. They count as hosts of the API."`
	Context string   `yaml:"context,omitempty" jsonschema_description:"Value of context_extensions environment under which the keys are accepted."`
	Quota   *bool    `yaml:"quota,omitempty" jsonschema_description:"Whether its keys spend quotas too. Default: true."`
}

type addressIn struct {
	From           string   `yaml:"from,omitempty" jsonschema:"enum=peer,enum=external-address,enum=xff" jsonschema_description:"peer: the connection's address. external-address: x-envoy-external-address. xff: X-Forwarded-For. Default: peer."`
	TrustedHops    int      `yaml:"trusted_hops,omitempty" jsonschema:"minimum=0" jsonschema_description:"xff only: how many entries from the right are proxies of yours; the next one is the client."`
	MaxAddresses   *int     `yaml:"max_addresses,omitempty" jsonschema:"minimum=1,maximum=10000" jsonschema_description:"Entries that a key's IP list may have. Default: 1000."`
	TrustedProxies []string `yaml:"trusted_proxies,omitempty" jsonschema_description:"Peers whose headers are believed. From any other peer the client is the peer itself. Default: every peer."`
}

type scopeIn struct {
	Name    string   `yaml:"name" jsonschema:"required" jsonschema_description:"Name of the scope, as keys and routes give it."`
	Implies []string `yaml:"implies,omitempty" jsonschema_description:"Scopes that this one includes."`
}

type routeIn struct {
	Name   string `yaml:"name" jsonschema:"required" jsonschema_description:"Name of the route, in metadata and log lines. Envoy's context_extensions may name it."`
	Match  string `yaml:"match" jsonschema:"required" jsonschema_description:"[METHOD ]/path/{wildcard}, as in Go's net/http ServeMux."`
	Scope  string `yaml:"scope,omitempty" jsonschema_description:"Scope that the key needs, or none. Required unless public."`
	Cost   *int64 `yaml:"cost,omitempty" jsonschema:"minimum=0" jsonschema_description:"Units that a request spends of each limit. Default: 1."`
	Slot   string `yaml:"concurrent,omitempty" jsonschema:"enum=one,enum=none" jsonschema_description:"Whether a request counts as one of those under way. none is for streams that a plan shall not limit. Default: one."`
	Public bool   `yaml:"public,omitempty" jsonschema_description:"Allowed without a key."`
}

type concurrencyIn struct {
	MaxDuration string `yaml:"max_duration,omitempty" jsonschema_description:"How long a request counts as under way, unless the access log says that it goes on. Go duration, 1s to 24h. Default: 60s."`
	RequestID   string `yaml:"request_id,omitempty" jsonschema:"enum=ignored,enum=trusted" jsonschema_description:"trusted: the proxy makes x-request-id for every request, as Envoy does at the edge, so that it tells requests apart. ignored: a client may choose it. Default: ignored."`
	WithoutLog  string `yaml:"without_log,omitempty" jsonschema:"enum=refuse,enum=ttl" jsonschema_description:"What a server does that proxies reach over HTTP, where no access log says that a request has ended. refuse: not start. ttl: count each request as under way for max_duration. Default: refuse."`
}

type planIn struct {
	Name        string       `yaml:"name" jsonschema:"required" jsonschema_description:"Name of the plan, as keys give it."`
	MonthAnchor anchorIn     `yaml:"month_anchor,omitempty" jsonschema_description:"Day of the month on which months begin, clamped to the month's last day, or key for the key's own day. Default: 1."`
	FailureMode string       `yaml:"failure_mode,omitempty" jsonschema:"enum=closed,enum=open,enum=local" jsonschema_description:"What happens when the limits cannot be asked: closed is undecided, open allows, local counts in this replica. Default: closed."`
	Counting    string       `yaml:"counting,omitempty" jsonschema:"enum=auto,enum=exact" jsonschema_description:"auto: replicas may lease units in advance, at most 2 % of what is left, so that most requests need no store. exact: each request is counted in the store. No limit is exceeded in either. Default: auto."`
	Concurrent  *int64       `yaml:"concurrent,omitempty" jsonschema:"minimum=1,maximum=10000" jsonschema_description:"Requests of a key that may be under way at once. Keys may override it as the limit named concurrent. Such a plan counts exactly. Default: any number."`
	ShadowMode  bool         `yaml:"shadow_mode,omitempty" jsonschema_description:"No limit of the plan refuses a request; what they would refuse is said. Such a plan counts exactly. Default: false."`
	Limits      *[]limitIn   `yaml:"limits" jsonschema:"required" jsonschema_description:"Limits, all of which must allow. [] is unlimited."`
	Alerts      planAlertsIn `yaml:"alerts,omitempty" jsonschema_description:"When somebody is told of keys of this plan, in place of what the API says. quota: [] is never."`
	KeyCaps     []keyCapIn   `yaml:"key_caps,omitempty" jsonschema_description:"How many active keys a team may have, by environment. Default: any number."`
}

type keyCapIn struct {
	Environment string `yaml:"environment,omitempty" jsonschema_description:"Environment whose keys count. Required where the API has environments."`
	Keys        *int64 `yaml:"keys" jsonschema:"required,minimum=0,maximum=1000000" jsonschema_description:"Active keys at most, when a key is created, switched on or put on this plan. A rotated key counts as one with its successor."`
}

type limitIn struct {
	Name         string    `yaml:"name" jsonschema:"required" jsonschema_description:"Name of the limit, unique in the plan. Keys may override it by name."`
	Requests     *int64    `yaml:"requests" jsonschema:"required,minimum=0" jsonschema_description:"Requests per window. 0 allows none."`
	Per          string    `yaml:"per" jsonschema:"required,enum=second,enum=minute,enum=hour,enum=day,enum=month" jsonschema_description:"Length of the windows, which are aligned to the clock in UTC."`
	Quota        bool      `yaml:"quota,omitempty" jsonschema_description:"A quota is not spent by keys of an environment with quota: false."`
	ShadowMode   bool      `yaml:"shadow_mode,omitempty" jsonschema_description:"The limit refuses nothing, counts on beyond its number, and says what it would refuse. Such a plan counts exactly. Default: false."`
	Environments *[]string `yaml:"environments,omitempty" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"Environments whose keys the limit is for. Default: all."`
}

type errorsIn struct {
	Dialect    string     `yaml:"dialect" jsonschema:"required,enum=envelope,enum=nested,enum=problem" jsonschema_description:"envelope: {success,error:{code,message,details},requestId}. nested: {error:{code,message,retry_after}}. problem: RFC 9457."`
	RequestID  string     `yaml:"request_id,omitempty" jsonschema_description:"envelope only: name of the field that carries x-request-id, or req_ and the decision id where the request has none. Default: no such field."`
	DecisionID string     `yaml:"decision_id,omitempty" jsonschema:"enum=none,enum=header" jsonschema_description:"header: refusals carry the decision's id as X-Decision-Id. Texts may hold it as {decision_id}. Default: none."`
	Answers    []answerIn `yaml:"answers" jsonschema:"required" jsonschema_description:"One answer for each reason, every reason exactly once."`
}

type answerIn struct {
	On         []string          `yaml:"on" jsonschema:"required,minItems=1" jsonschema_description:"Reasons that are answered so."`
	Status     int               `yaml:"status" jsonschema:"required,minimum=400,maximum=599" jsonschema_description:"HTTP status."`
	Code       string            `yaml:"code,omitempty" jsonschema_description:"envelope, nested: error.code."`
	Type       string            `yaml:"type,omitempty" jsonschema_description:"problem: type."`
	Title      string            `yaml:"title,omitempty" jsonschema_description:"problem: title."`
	Message    string            `yaml:"message" jsonschema:"required" jsonschema_description:"error.message, or detail of a problem. One line; may hold placeholders such as {retry_after}."`
	Details    map[string]string `yaml:"details,omitempty" jsonschema_description:"envelope: error.details."`
	Extensions map[string]string `yaml:"extensions,omitempty" jsonschema_description:"problem: further members (RFC 9457 section 3.2) for clients that read others. May hold placeholders; {retry_after} alone is a number."`
	Instance   bool              `yaml:"instance,omitempty" jsonschema_description:"problem: add instance, the path without its query."`
}

type rateHeadersIn struct {
	Family string `yaml:"family,omitempty" jsonschema:"enum=x-ratelimit,enum=none" jsonschema_description:"x-ratelimit: X-RateLimit-Limit, -Remaining, -Reset on the answers that on says. Default: none."`
	Reset  string `yaml:"reset,omitempty" jsonschema:"enum=epoch,enum=seconds" jsonschema_description:"Reset as Unix time or as seconds to wait. Default: epoch."`
	On     string `yaml:"on,omitempty" jsonschema:"enum=known,enum=usable" jsonschema_description:"known: on every answer to a known key. usable: not on the refusal of an inactive or expired one, which then looks like that of an unknown one. Default: known."`
	IETF   bool   `yaml:"ietf,omitempty" jsonschema_description:"Add RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10)."`
}

const credentialForms = "bearer, {authorization: SCHEME}, {header: NAME}, {query: NAME} or {oauth2: {issuer: URL, ...}}"

// credentialIn is either the word bearer, short for {authorization: Bearer}, or a mapping with one
// key.
type credentialIn struct {
	Authorization string    `yaml:"authorization,omitempty"` // a scheme, or none
	Header        string    `yaml:"header,omitempty"`
	Query         string    `yaml:"query,omitempty"`
	OAuth2        *oauth2In `yaml:"oauth2,omitempty"`
}

// oauth2In is an issuer of access tokens.
type oauth2In struct {
	Issuer           string           `yaml:"issuer" jsonschema:"required" jsonschema_description:"Identifier of the issuer, byte for byte as tokens have it in iss. An https URL; http for the loopback alone."`
	JWKSURI          string           `yaml:"jwks_uri,omitempty" jsonschema_description:"Where the issuer's keys are. Default: as the issuer's metadata says (OpenID Connect Discovery, RFC 8414)."`
	Audience         []string         `yaml:"audience" jsonschema:"required,minItems=1" jsonschema_description:"Names of the API, of which a token must have one in aud."`
	Algorithms       []string         `yaml:"algorithms,omitempty" jsonschema:"uniqueItems=true" jsonschema_description:"Signatures that are accepted: RS256 to RS512, PS256 to PS512, ES256 to ES512, EdDSA. Default: RS256 and ES256."`
	TokenType        string           `yaml:"token_type,omitempty" jsonschema:"enum=at+jwt,enum=any" jsonschema_description:"typ of a token. at+jwt: that of access tokens (RFC 9068). any: it is not looked at. Default: at+jwt."`
	Leeway           string           `yaml:"leeway,omitempty" jsonschema_description:"By how much the issuer's clock may differ. Go duration, at most 5m. Default: 30s."`
	StaleFor         string           `yaml:"stale_for,omitempty" jsonschema_description:"How long the issuer's keys are used beyond their time while it cannot be reached. Go duration, at most 168h. Default: 1h."`
	CertificateBound bool             `yaml:"certificate_bound,omitempty" jsonschema_description:"Accept tokens that are bound to a client certificate (RFC 8705), with that certificate. Envoy must send it: include_peer_certificate. Other bound tokens are refused. Default: false."`
	ClientClaim      string           `yaml:"client_claim,omitempty" jsonschema:"enum=client_id,enum=azp,enum=sub" jsonschema_description:"Claim that says which client a token is of. Default: client_id."`
	ScopeClaim       string           `yaml:"scope_claim,omitempty" jsonschema:"enum=scope,enum=scp" jsonschema_description:"Claim with the token's scopes. Default: scope."`
	PlanClaim        string           `yaml:"plan_claim,omitempty" jsonschema_description:"Claim with the client's plan. A token that names an unknown one is refused. What tollgate clients plan says comes before it. Default: none."`
	Plan             string           `yaml:"plan,omitempty" jsonschema_description:"Plan of clients for which nothing else says one. Required where the API has plans, unless there is a plan_claim."`
	TeamClaim        string           `yaml:"team_claim,omitempty" jsonschema_description:"Claim with the client's team. Default: none."`
	Teams            []string         `yaml:"teams,omitempty" jsonschema:"uniqueItems=true" jsonschema_description:"Teams that tokens may claim; a token that names another one is refused. [\"*\"] is any. Required with team_claim."`
	Environment      string           `yaml:"environment,omitempty" jsonschema_description:"Environment that the tokens are for. Required where the API has environments."`
	Introspection    *introspectionIn `yaml:"introspection,omitempty" jsonschema_description:"How the issuer is asked about tokens (RFC 7662). Default: it is not asked."`
}

type introspectionIn struct {
	Endpoint   string `yaml:"endpoint,omitempty" jsonschema_description:"Where the issuer is asked. Default: as its metadata says."`
	ClientID   string `yaml:"client_id" jsonschema:"required" jsonschema_description:"Client that this server is at the issuer."`
	SecretFile string `yaml:"client_secret_file,omitempty" jsonschema_description:"File with the secret of that client."`
	KeyFile    string `yaml:"private_key_file,omitempty" jsonschema_description:"File with a private key of that client in PEM, for private_key_jwt (RFC 7523)."`
	Tokens     string `yaml:"tokens,omitempty" jsonschema:"enum=opaque,enum=jwt,enum=all" jsonschema_description:"Which tokens the issuer is asked about. opaque: those that are no JWTs. jwt: JWTs, which may have been revoked, once their signature is verified. Default: opaque."`
	MaxAge     string `yaml:"max_age,omitempty" jsonschema_description:"How long an answer that a token is active counts. 0s asks each time. Go duration, at most 24h. Default: 1m."`
}

// UnmarshalYAML reads both forms; compile refuses everything but the forms that mean something.
func (c *credentialIn) UnmarshalYAML(node ast.Node) error {
	if word, ok := node.(*ast.StringNode); ok {
		if word.Value != "bearer" {
			return &yaml.SyntaxError{Token: word.GetToken(), Message: "unknown credential " + quote(word.Value) + ", want " + credentialForms}
		}
		c.Authorization = "Bearer"
		return nil
	}
	type mapping credentialIn
	return yaml.NodeToValue(node, (*mapping)(c), yaml.Strict())
}

// anchorIn is a day of the month, or the word key.
type anchorIn struct {
	Day int
	Key bool
}

// UnmarshalYAML reads both forms.
func (a *anchorIn) UnmarshalYAML(node ast.Node) error {
	if word, ok := node.(*ast.StringNode); ok && word.Value == "key" {
		a.Key = true
		return nil
	}
	_, ok := node.(*ast.IntegerNode)
	n, err := strconv.Atoi(node.GetToken().Value)
	if !ok || err != nil || n < 1 || n > 31 {
		return &yaml.SyntaxError{Token: node.GetToken(), Message: "month_anchor " + quote(node.GetToken().Value) + ", want a day from 1 to 31, or key"}
	}
	a.Day = n
	return nil
}
