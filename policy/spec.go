package policy

import (
	"net/netip"
	"time"

	"tollgate/policy/answer"
	"tollgate/policy/limits"
	"tollgate/policy/oauth"
	"tollgate/policy/router"
)

// Spec is one API as its policy file states it, compiled: what package policyfile makes and New
// takes over. It is checked already: all names that it refers to are there, and names, hosts and
// prefixes are unique. After New nobody may change what it refers to.
type Spec struct {
	Name string
	// Hosts in the form of NormalHost, those of environments too.
	Hosts        []string
	Environments []Environment

	// Shadow lets every request pass, and says which would have been refused. The plans are then
	// shadows too.
	Shadow bool

	// What a key looks like and where it stands.
	Credentials CredentialPlaces
	Prefixes    []string // none is the beginning of another
	Checksum    bool     // of every key
	// The places in the file that say so, for errors.
	ChecksumAt, PrefixesAt string

	// Issuers are those whose access tokens the API takes; none: it takes no tokens.
	Issuers []*oauth.Issuer
	// Metadata is what clients are told of the resource that the API is (RFC 9728); nil for none.
	Metadata *oauth.Metadata

	// Slots is about requests under way, of plans that limit how many there may be.
	Slots SlotRules

	Address      AddressSource
	MaxAddresses int // that a key's list may have

	Router           *router.Router[Route]
	Routes           map[string]*Route // by name
	PublicPreflights bool              // CORS preflights need no key
	Scopes           map[string]bool
	EmptyScopesAll   bool // a key without scopes has all of them, else none

	Plans map[string]*Plan // by name; none: nothing is limited

	Answers      [reasonCount]*answer.Answer
	RequestID    bool // answers may hold the request's id
	UndecidedRPC bool // the proxy's own failure policy decides what is undecided
	// DecisionHeader has refusals carry the decision's id in a header.
	DecisionHeader bool
	StaleFor       time.Duration
	RateHeaders    RateHeaders
	Usage          Usage
	ErrorLog       ErrorLog
	Alerts         Alerts
}

// Route is one route of an API.
type Route struct {
	Index  int // in the file
	Name   string
	Scope  string   // "" for scope: none
	Grants []string // the scopes that include Scope, itself among them
	Cost   int64    // of a request, in units of each limit
	Public bool     // allowed without a key
	NoSlot bool     // its requests do not count among those under way
	// Challenge is what the client of a token without Scope is told.
	Challenge string
}

// SlotRules say how the API's requests under way are followed.
type SlotRules struct {
	MaxDuration time.Duration // of a request; then its slot ends by itself
	// RequestIDs says that the proxy makes x-request-id, so that it names a request which no client
	// can choose.
	RequestIDs bool
	// WithoutLog takes it that no access log tells of the end of requests: every slot is held for
	// MaxDuration.
	WithoutLog bool
}

// Environment is a set of keys with a prefix of their own, such as live or test. It accepts them
// under its hosts or its context value, everywhere if it has neither.
type Environment struct {
	Index    int // in Plan.ByEnvironment
	Name     string
	Prefix   string
	PrefixAt string // its place in the file
	Hosts    []string
	Context  string
}

// Plan is what keys of a plan may spend.
type Plan struct {
	Index         int          // in the file
	All           PlanLimits   // where the API has no environments, what its keys have
	ByEnvironment []PlanLimits // what keys of an environment have, by its Index
	KeyAnchor     bool         // months begin on the key's own day
	Exact         bool         // each spend is counted in the store
	Shadow        bool         // nothing of the plan refuses, and all its windows are shadows
	Shadows       bool         // some window of it is a shadow; then it is Exact
	FailureMode   FailureMode
	Concurrent    int64          // requests of a key under way at once; 0 for any number
	KeyCaps       map[string]int // active keys of a team by environment, "" where there are none
	QuotaAlerts   []int          // percent of a limit per day or month to tell of, ascending
}

// PlanLimits are what some keys have of the limits of a plan.
type PlanLimits struct {
	Windows []limits.Window // which they spend
	Exempt  []string        // the quotas that they do not
}

// FailureMode says what becomes of a request whose limits cannot be asked.
type FailureMode uint8

// The failure modes.
const (
	FailClosed FailureMode = iota // undecided
	FailOpen                      // allowed
	FailLocal                     // counted in this process
)

// String returns the word of policy files.
func (m FailureMode) String() string {
	return [...]string{FailClosed: "closed", FailOpen: "open", FailLocal: "local"}[m]
}

// EnvironmentNames returns the names of the environments, in the order of the file.
func (s *Spec) EnvironmentNames() []string {
	names := make([]string, len(s.Environments))
	for i := range s.Environments {
		names[i] = s.Environments[i].Name
	}
	return names
}

// Environment returns the environment of a key: nil, true where the API has none.
func (s *Spec) Environment(name string) (_ *Environment, ok bool) {
	if len(s.Environments) == 0 {
		return nil, true
	}
	for i := range s.Environments {
		if s.Environments[i].Name == name {
			return &s.Environments[i], true
		}
	}
	return nil, false
}

// DefaultSlowAfter is how long a request takes that counts as slow where a policy says nothing.
const DefaultSlowAfter = time.Second

// Usage says how long usage is kept, and which requests count as slow.
type Usage struct {
	SlowAfter time.Duration
	Hours     int // after its end, how long a day is told by hour
	Days      int // how long usage is told by day, at least
	Months    int // how long it is kept at all
}

// DefaultUsage is what holds where a policy says nothing.
func DefaultUsage() Usage {
	return Usage{SlowAfter: DefaultSlowAfter, Hours: 48, Days: 35, Months: 13}
}

// ErrorLog says what the error log keeps of a request, and for how long.
type ErrorLog struct {
	Addresses AddressForm
	Days      int // after which an entry is gone
}

// Alerts says of what somebody is to be told, beside Plan.QuotaAlerts. What is zero is never told.
type Alerts struct {
	// Of keys by themselves, in whole days.
	ExpiringWithin, RotateAfter, UnusedFor time.Duration

	ErrorRate   ErrorRate
	DeniedSpike DeniedSpike

	NewNetworks NewNetworks

	ReleasesLost bool // places of requests under way end by themselves
}

// NewNetworks is about keys that are used from a network from which they were not before.
type NewNetworks struct {
	Told      bool // somebody is told
	AfterDays int  // not before it is so long since the first use of the key was noted
}

// ErrorRate is the share of requests within ten minutes that end with 5xx from which on somebody is
// told, where at least so many requests have ended.
type ErrorRate struct {
	Percent  int // 1 to 100; 0: never
	Requests int
}

// DeniedSpike is how many times as many requests must be refused within ten minutes as in the ten
// before, and how many at least, before somebody is told.
type DeniedSpike struct {
	Times    int // 2 or more; 0: never
	Requests int
}

// OfKeys reports whether something is to be told of keys by themselves.
func (a *Alerts) OfKeys() bool { return a.ExpiringWithin|a.RotateAfter|a.UnusedFor != 0 }

// OfRates reports whether something is to be told of how many requests fail or are refused.
func (a *Alerts) OfRates() bool { return a.ErrorRate.Percent|a.DeniedSpike.Times != 0 }

// DefaultErrorLog is what holds where a policy says nothing.
func DefaultErrorLog() ErrorLog { return ErrorLog{Days: 35} }

// AddressForm is how much of a client's address is kept.
type AddressForm uint8

// The forms of addresses.
const (
	AddressFull    AddressForm = iota
	AddressNetwork             // the /24 of an IPv4 address, the /48 of an IPv6 one
	AddressNone
)

// Text returns an address in the form, "" for the invalid one.
func (f AddressForm) Text(a netip.Addr) string {
	if !a.IsValid() || f == AddressNone {
		return ""
	}
	if f == AddressFull {
		return a.String()
	}
	bits := 24
	if a.Is6() {
		bits = 48
	}
	return netip.PrefixFrom(a, bits).Masked().String()
}
