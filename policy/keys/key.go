// Package keys defines an API key: its record, the form of its secret and how that is hashed, and
// the Grant that a decision needs. It does no I/O; the packages below it store keys, keep them in
// memory, change them and read them from files.
//
// A secret itself is never stored and never printed: what is stored is its HMAC-SHA-256, and every
// type here that carries a secret or a digest redacts itself in fmt, slog and encoders.
package keys

import (
	"crypto/subtle"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Status says what a key may be used for.
type Status string

// The four states of a key. A change to Revoked or Deleted is final.
const (
	Active   Status = "active"   // answers requests
	Inactive Status = "inactive" // switched off for now
	Revoked  Status = "revoked"  // switched off for good; record and secret hash stay
	Deleted  Status = "deleted"  // a tombstone: keeps the id from ever being used again
)

// AlgorithmHMACSHA256 is the id of the algorithm that new keys are hashed with.
const AlgorithmHMACSHA256 = "hmac-sha256"

// The longest texts that a record may hold, in bytes.
const (
	// maxRequests is the largest limit of a policy, too. A Redis script computes with doubles,
	// which add such numbers exactly.
	maxRequests = 1 << 50

	MaxNameBytes = 128
	maxNoteBytes = 1024
)

// Override replaces the size of one limit of a key's plan.
type Override struct {
	Name     string // the limit's name in the plan
	Requests int64  // allowed per window; 0 allows none
}

// Extra is what a key may spend beyond the size of one limit of its plan, until a time. Nobody has
// to take it away then.
type Extra struct {
	Name     string    // the limit's name in the plan
	Requests int64     // so many more in each window, 1 or more
	Until    time.Time // by the clock of who decides; whole milliseconds
}

// MaxExtras is how many a key may have at once.
const MaxExtras = 16

// Key is the record of one API key. It holds no secret.
type Key struct {
	ID          string // key_ followed by 4 to 60 of 0-9 A-Z a-z _
	API         string // the one API that the key belongs to
	Team        string // owner; may be empty
	Name        string // for people; never empty
	Note        string // free text; may be empty
	Environment string // empty for an API without environments
	Plan        string // name of a plan of the API's policy; may be empty
	LimitID     string // names the counters; a successor by rotation inherits it
	CreatedBy   string // who made it; may be empty
	RotatedFrom string // id of the key that this one replaces; may be empty
	RotatedTo   string // id of the key that replaces this one; may be empty

	Scopes []string       // empty means what the policy's empty_scopes says
	IPs    []netip.Prefix // masked, IPv4 never in its v6-mapped form; empty means every address
	Limits []Override     // by limit name, each name once
	Extras []Extra        // those of one limit add up
	Status Status

	ExpiresAt time.Time // zero = never
	RetiresAt time.Time // end of the grace after a rotation; zero = none
	CreatedAt time.Time // zero = not known
	UpdatedAt time.Time // zero = not known
	LastUsed  time.Time // written once a minute; zero = never, or not known. Not part of the record: Get and List read it

	AnchorDay int    // 1 to 31, the day on which the key's own month starts; 0 means 1
	Version   int64  // counts changes, from 1
	Algorithm string // what Digest was made with
	Digest    Digest // of the secret
	Other     Digest // leads to the key too, while Rehash replaces Digest; zero = none

	Client Client // whose record this is, in place of a key's; zero for a key
}

// Clone shares nothing with k that a caller could change.
func (k *Key) Clone() *Key {
	c := *k
	c.Scopes, c.IPs, c.Limits, c.Extras = slices.Clone(k.Scopes), slices.Clone(k.IPs), slices.Clone(k.Limits), slices.Clone(k.Extras)
	return &c
}

// AnswersTo compares both digests in any case, so that the time says nothing.
func (k *Key) AnswersTo(d Digest) bool {
	first := subtle.ConstantTimeCompare(k.Digest[:], d[:])
	second := subtle.ConstantTimeCompare(k.Other[:], d[:])
	return first|second == 1 && d != Digest{}
}

// Digests returns all digests that lead to the key: while a rehash is unfinished, replicas may know
// it by either.
func (k *Key) Digests() []Digest {
	if k.Other == (Digest{}) {
		return []Digest{k.Digest}
	}
	return []Digest{k.Digest, k.Other}
}

// Hash is the algorithm and the hexadecimal digest, as ParseHash reads them.
func (k *Key) Hash() string { return k.Algorithm + ":" + k.Digest.Hex() }

// FieldError says which field of a Key has a value that cannot be stored, and why. Neither text
// holds a secret.
type FieldError struct {
	Field   string // as it is written in the keys file, for example "ips" or "limits[1].name"
	Problem string
}

// Error gives field and problem on one line.
func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Validate returns a *FieldError for the first field whose value cannot be stored, or nil. Of a
// tombstone only id, API and version are needed.
func (k *Key) Validate() error {
	if k.IsTombstone() {
		return nil
	}
	problems := k.Problems()
	if len(problems) > 0 {
		return problems[0]
	}
	if k.Digest == (Digest{}) {
		return &FieldError{"hash", "is missing"}
	}
	return nil
}

// IsTombstone reports whether k is a tombstone as Delete leaves it.
func (k *Key) IsTombstone() bool {
	return k.Status == Deleted && k.Version > 0 && IDProblem(k.ID) == "" && APIProblem(k.API) == "" &&
		reflect.DeepEqual(k, &Key{ID: k.ID, API: k.API, Status: Deleted, Version: k.Version})
}

// Problems checks every field but the digest, which a key read from a file with a plain secret does
// not have yet.
func (k *Key) Problems() []*FieldError {
	var found []*FieldError
	note := func(field, problem string) {
		if problem != "" {
			found = append(found, &FieldError{field, problem})
		}
	}
	note("id", IDProblem(k.ID))
	note("api", APIProblem(k.API))
	note("name", NameProblem(k.Name))
	note("team", TextProblem(k.Team, MaxNameBytes))
	note("note", TextProblem(k.Note, maxNoteBytes))
	note("environment", TextProblem(k.Environment, MaxNameBytes))
	note("plan", TextProblem(k.Plan, MaxNameBytes))
	note("limit_id", limitIDProblem(k.LimitID))
	note("created_by", TextProblem(k.CreatedBy, MaxNameBytes))
	note("rotated_from", optionalIDProblem(k.RotatedFrom))
	note("rotated_to", optionalIDProblem(k.RotatedTo))
	k.listProblems(note)
	note("status", statusProblem(k.Status))
	note("expires_at", TimeProblem(k.ExpiresAt))
	note("retires_at", TimeProblem(k.RetiresAt))
	note("created_at", TimeProblem(k.CreatedAt))
	note("updated_at", TimeProblem(k.UpdatedAt))
	if k.AnchorDay < 0 || k.AnchorDay > 31 {
		note("anchor_day", fmt.Sprintf("%d is not a day from 1 to 31", k.AnchorDay))
	}
	if k.Version < 1 {
		note("version", fmt.Sprintf("%d is not 1 or more", k.Version))
	}
	note("algorithm", algorithmProblem(k.Algorithm))
	if k.IsClient() {
		k.clientProblems(note)
	} else if IsClientID(k.ID) {
		note("id", Quote(k.ID)+" has the form of a client's, not of a key's")
	}
	return found
}

func (k *Key) listProblems(note func(field, problem string)) {
	item := func(list string, i int, part, problem string) {
		if problem != "" {
			note(fmt.Sprintf("%s[%d]%s", list, i, part), problem)
		}
	}
	scopes, limits := firstOf(len(k.Scopes)), firstOf(len(k.Limits))
	for i, scope := range k.Scopes {
		item("scopes", i, "", scopeProblem(scope))
		if scopes != nil && scopes[scope] || scopes == nil && slices.Contains(k.Scopes[:i], scope) {
			item("scopes", i, "", Quote(scope)+" is named twice")
		}
		if scopes != nil {
			scopes[scope] = true
		}
	}
	for i, prefix := range k.IPs {
		item("ips", i, "", prefixProblem(prefix))
	}
	for i, o := range k.Limits {
		item("limits", i, ".name", NameProblem(o.Name))
		same := func(other Override) bool { return other.Name == o.Name }
		if o.Name != "" && (limits != nil && limits[o.Name] || limits == nil && slices.ContainsFunc(k.Limits[:i], same)) {
			item("limits", i, ".name", Quote(o.Name)+" is named twice")
		}
		if limits != nil {
			limits[o.Name] = true
		}
		if o.Requests < 0 || o.Requests > maxRequests {
			item("limits", i, ".requests", fmt.Sprintf("%d is not 0 to %d", o.Requests, int64(maxRequests)))
		}
	}
	if len(k.Extras) > MaxExtras {
		note("extras", fmt.Sprintf("%d are more than the %d that a key may have", len(k.Extras), MaxExtras))
	}
	for i, x := range k.Extras {
		item("extras", i, ".name", NameProblem(x.Name))
		if x.Requests < 1 || x.Requests > maxRequests {
			item("extras", i, ".requests", fmt.Sprintf("%d is not 1 to %d", x.Requests, int64(maxRequests)))
		}
		if x.Until.IsZero() {
			item("extras", i, ".until", "is missing")
		}
		item("extras", i, ".until", TimeProblem(x.Until))
	}
}

// firstOf is where the names of a long list are noted, so that it is not compared with itself; nil
// for a short one, which needs no memory.
func firstOf(n int) map[string]bool {
	if n <= 32 {
		return nil
	}
	return make(map[string]bool, n)
}

// Allows reports whether the key may be used from a. A key without a list may be used from
// everywhere, even from an address that nobody knows; with a list, an invalid address is refused.
// IPv4 inside IPv6 counts as IPv4, and a zone is ignored.
func (k *Key) Allows(a netip.Addr) bool { return allows(k.IPs, a) }

// Expired reports whether the key's own expiry or the end of its grace is reached: at that instant
// it already is.
func (k *Key) Expired(now time.Time) bool {
	return reached(k.ExpiresAt, now) || reached(k.RetiresAt, now)
}

func reached(end, now time.Time) bool { return !end.IsZero() && !now.Before(end) }

func IDProblem(id string) string {
	rest, ok := strings.CutPrefix(id, "key_")
	if !ok || len(rest) < 4 || len(rest) > 60 || !only(rest, isIDByte) {
		return Quote(id) + " is not key_ followed by 4 to 60 of 0-9 A-Z a-z _"
	}
	return ""
}

func optionalIDProblem(id string) string {
	if id == "" {
		return ""
	}
	return IDProblem(id)
}

func APIProblem(api string) string {
	body := func(c byte) bool { return isLower(c) || isDigit(c) || c == '-' }
	if api == "" || len(api) > MaxNameBytes || !isLower(api[0]) || !only(api, body) {
		return Quote(api) + " is not a lower-case letter followed by a-z 0-9 -"
	}
	return ""
}

// limitIDProblem keeps braces out: the limit id stands in the hash tag of a Redis key.
func limitIDProblem(id string) string {
	body := func(c byte) bool { return isIDByte(c) || c == '-' }
	if id == "" || len(id) > 64 || !only(id, body) {
		return Quote(id) + " is not 1 to 64 of 0-9 A-Z a-z _ -"
	}
	return ""
}

// scopeProblem takes what RFC 6749 calls a scope-token, without the comma that joins scopes in
// headers.
func scopeProblem(scope string) string {
	body := func(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '\\' && c != ',' }
	if scope == "" || len(scope) > MaxNameBytes || !only(scope, body) {
		return Quote(scope) + " is not a scope name: visible ASCII without quotes, commas and backslashes"
	}
	return ""
}

func statusProblem(s Status) string {
	switch s {
	case Active, Inactive, Revoked, Deleted:
		return ""
	}
	return Quote(string(s)) + " is not active, inactive, revoked or deleted"
}

// TimeProblem refuses what RFC 3339 cannot write.
func TimeProblem(t time.Time) string {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Sprintf("the year %d is not between 0 and 9999", y)
	}
	return ""
}

// TextProblem refuses what could break a header or a log line that the text ends up in.
func TextProblem(s string, most int) string {
	if len(s) > most {
		return fmt.Sprintf("is longer than %d bytes", most)
	}
	if !utf8.ValidString(s) {
		return "is not UTF-8"
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return "has a control character"
	}
	return ""
}

// NameProblem is TextProblem of a name that is needed.
func NameProblem(s string) string { return needed(s, TextProblem(s, MaxNameBytes)) }

func needed(s, problem string) string {
	if s == "" {
		return "is empty"
	}
	return problem
}

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isLower(c byte) bool  { return c >= 'a' && c <= 'z' }
func isUpper(c byte) bool  { return c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return isLower(c) || isUpper(c) }
func isBase62(c byte) bool { return isLetter(c) || isDigit(c) }
func isIDByte(c byte) bool { return isBase62(c) || c == '_' }

// Plural is n things, as "1 key" or "2 keys".
func Plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Shorten cuts s to at most n bytes of whole characters.
func Shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
