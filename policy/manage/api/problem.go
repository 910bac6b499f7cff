package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// problemType is the media type of a Problem (RFC 9457).
const problemType = "application/problem+json"

// The codes of problems.
const (
	codeNoToken         = "no_token"
	codeBadToken        = "invalid_token"
	codeTooManyLogins   = "too_many_failed_logins"
	codeTooManyRequests = "too_many_requests"
	codeBusy            = "busy"
	codeForbidden       = "forbidden"
	codeNoSuchPath      = "no_such_path"
	codeMethod          = "method_not_allowed"
	codeMediaType       = "unsupported_media_type"
	codeBody            = "invalid_body"
	codeTooLarge        = "body_too_large"
	codeInvalid         = "invalid_request"
	codePolicy          = "policy_refuses"
	codeNoKey           = "no_such_key"
	codeVersion         = "version_mismatch"
	codeConflict        = "changed_meanwhile"
	codeRevoked         = "key_revoked"
	codeNotRevoked      = "key_not_revoked"
	codeExpired         = "key_expired"
	codeInactive        = "key_inactive"
	codeRotated         = "key_rotated"
	codeCap             = "too_many_keys"
	codeNoMember        = "no_such_member"
	codeMemberExists    = "member_exists"
	codeTeamFull        = "team_full"
	codeLastAdmin       = "last_admin"
	codeOtherBody       = "idempotency_key_reused"
	codeInProgress      = "request_in_progress"
	codeTooManyNames    = "too_many_idempotency_keys"
	codeUnreadable      = "unreadable_record"
	codeNotAudited      = "not_audited"
	codeStore           = "store_unavailable"
	codeUnknownOutcome  = "outcome_unknown"
	codePepper          = "pepper_mismatch"
	codeInternal        = "internal"
)

// kind is what is the same for all problems with a code.
type kind struct {
	code   string
	status int
	title  string
	advice string // what to do, for the page
}

var kinds = [...]kind{
	{codeNoToken, 401, "No member token", "Send one header Authorization: Bearer and a member's token, which begins with tgm_. An admin of the team makes one."},
	{codeBadToken, 401, "The member token is not valid", "It was never valid, or the member was removed, or the team deleted. Ask an admin of the team for another."},
	{codeTooManyLogins, 429, "Too many failed log-ins from this address", "Wait as long as Retry-After says. Every request from the address waits, also one with a good token."},
	{codeTooManyRequests, 429, "Too many changes by this member", "Wait as long as Retry-After says."},
	{codeBusy, 503, "Too many requests at once", "Try again after a moment."},
	{codeForbidden, 403, "The member may not do this", "The detail says who may. Roles are those of the team; plans and limits beyond the team's are given by the operator."},
	{codeNoSuchPath, 404, "No such path", "Compare the path with the reference."},
	{codeMethod, 405, "The path does not know this method", "The header Allow names those that it knows."},
	{codeMediaType, 415, "The body is not announced as JSON", "Send Content-Type: application/json, or application/merge-patch+json with PATCH."},
	{codeBody, 400, "The body cannot be read", "Send one JSON object of which no field is named twice."},
	{codeTooLarge, 413, "The body is too large", "A body has at most 262,144 bytes."},
	{codeInvalid, 422, "A value is not valid", "The list errors names each field and what is wrong with it."},
	{codePolicy, 422, "The policy does not know this", "The detail says which plan, scope, environment or limit the policy of the API does not have, or does not allow with the others."},
	{codeNoKey, 404, "No such key", "The team has no key with this id. Keys of other teams look the same."},
	{codeVersion, 412, "The key has another version", "Somebody has changed the key since. Read it again, and send the ETag that you get then."},
	{codeConflict, 409, "It was changed meanwhile", "Read it again, and repeat the change if it is still wanted."},
	{codeRevoked, 409, "The key is revoked", "That is final. Make another key."},
	{codeNotRevoked, 409, "The key is not revoked", "Only a revoked key can be deleted."},
	{codeExpired, 409, "The key has expired", "Make another key, or give this one a later expiry first."},
	{codeInactive, 409, "The key is inactive", "Activate it first."},
	{codeRotated, 409, "The key was rotated already", "The detail names its successor, which can be rotated."},
	{codeCap, 409, "The plan allows no more keys", "Revoke or deactivate one first."},
	{codeNoMember, 404, "No such member", "The team has no member with this id. Members of other teams look the same."},
	{codeMemberExists, 409, "The team has a member of this name", "Names differ in more than upper and lower case."},
	{codeTeamFull, 409, "The team has as many members as it can", "Remove one first."},
	{codeLastAdmin, 409, "The team needs an admin", "Make another member admin first."},
	{codeOtherBody, 422, "The Idempotency-Key was used for another request", "Use a new one for each new request."},
	{codeInProgress, 409, "A request with this Idempotency-Key is being answered", "Try again after a moment: then you hear what it has made."},
	{codeTooManyNames, 429, "Too many Idempotency-Keys in a day", "A member has at most 1,000 in 24 hours. Wait, or send requests without one."},
	{codeUnreadable, 500, "The record cannot be read", "The operator finds it with tollgate keys repair."},
	{codeNotAudited, 503, "The change could not be recorded", "Nothing was changed, because every change is written to the audit stream first. Try again."},
	{codeStore, 503, "The store does not answer", "Try again after a moment."},
	{codeUnknownOutcome, 503, "The outcome is not known", "The store did not answer in time, so the change may be made or not. Read the key, or the list, before you try again."},
	{codePepper, 503, "The pepper is not that of the store", "Nothing was changed. The operator has to start tollgate manage with the servers' pepper."},
	{codeInternal, 500, "Internal error", "Tell the operator the request_id."},
}

// Problem is why a request was refused (RFC 9457).
type Problem struct {
	Type      string         `json:"type" format:"uri-reference" doc:"Where the code is explained"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Code      string         `json:"code" doc:"The same for the same cause, for programs"`
	Detail    string         `json:"detail,omitempty" doc:"About this one case, for people"`
	RequestID string         `json:"request_id"`
	Errors    []FieldProblem `json:"errors,omitempty" nullable:"false"`
}

// FieldProblem is what is wrong with one value of a request. It does not repeat the value.
type FieldProblem struct {
	Field   string `json:"field" doc:"Where the value stands, for example limits[0].name"`
	Message string `json:"message"`
}

// newProblem returns a problem with a code. A code without a kind is a mistake, which is internal.
func newProblem(code, detail string) *Problem {
	for i := range kinds {
		if k := &kinds[i]; k.code == code {
			return &Problem{Type: "/problems/" + code, Title: k.title, Status: k.status, Code: code, Detail: detail}
		}
	}
	return newProblem(codeInternal, "")
}

// Error names the code.
func (p *Problem) Error() string { return "api: " + p.Code }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of a problem.
func (p *Problem) ContentType(string) string { return problemType }

// rulesError marks what the policy says about a key, which is the caller's mistake.
type rulesError struct{ err error }

// Error is what the policy says.
func (e *rulesError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *rulesError) Unwrap() error { return e.err }

// rules are the policy's, whose errors can be told from the store's.
type rules struct{ keys.Rules }

func ruled(err error) error {
	if err == nil {
		return nil
	}
	return &rulesError{err}
}

// ValidateKey is that of the policy.
func (r rules) ValidateKey(k *keys.Key) error { return ruled(r.Rules.ValidateKey(k)) }

// ValidateLimits is that of the policy.
func (r rules) ValidateLimits(k *keys.Key) error { return ruled(r.Rules.ValidateLimits(k)) }

// ValidateExtra is that of the policy.
func (r rules) ValidateExtra(k *keys.Key, x keys.Extra) error {
	return ruled(r.Rules.ValidateExtra(k, x))
}

// ValidateSecret is that of the policy.
func (r rules) ValidateSecret(k *keys.Key, secret string) error {
	return ruled(r.Rules.ValidateSecret(k, secret))
}

// Prefix is that of the policy.
func (r rules) Prefix(api, environment string) (string, error) {
	prefix, err := r.Rules.Prefix(api, environment)
	return prefix, ruled(err)
}

// problemOf is an error of the Manager as the client gets it. change says that the request may have
// changed something. What is not the client's mistake is logged.
func (a *API) problemOf(ctx context.Context, err error, change bool) *Problem {
	var field *keys.FieldError
	var rule *rulesError
	var corrupt *keys.CorruptError
	var p *Problem
	switch {
	case errors.Is(err, roles.ErrForbidden):
		p = newProblem(codeForbidden, plain(err))
	case errors.As(err, &field):
		p = newProblem(codeInvalid, plain(field))
		p.Errors = []FieldProblem{{field.Field, plain(errors.New(field.Problem))}}
	case errors.As(err, &rule):
		p = newProblem(codePolicy, plain(rule))
	case errors.As(err, &corrupt):
		p = newProblem(codeUnreadable, "")
	case errors.Is(err, audit.ErrNotAudited):
		p = newProblem(codeNotAudited, "")
	default:
		p = stateProblem(err)
	}
	if p == nil && change {
		p = newProblem(codeUnknownOutcome, "")
	}
	if p == nil {
		p = newProblem(codeStore, "")
	}
	p.RequestID = callOf(ctx).id
	if p.Status >= http.StatusInternalServerError {
		a.config.Log.Error("a request to the management API failed",
			slog.String("request", p.RequestID), slog.String("code", p.Code), slog.String("result", audit.ResultOf(err)))
	}
	return p
}

// stateProblem is about the state that a key is in, nil if the error is about none.
func stateProblem(err error) *Problem {
	for _, s := range []struct {
		is   error
		code string
	}{
		{store.ErrNoKey, codeNoKey}, {store.ErrFinal, codeRevoked}, {store.ErrNotRevoked, codeNotRevoked},
		{admin.ErrExpired, codeExpired}, {admin.ErrInactive, codeInactive}, {admin.ErrRotated, codeRotated},
		{store.ErrCap, codeCap}, {store.ErrConflict, codeConflict},
		{store.ErrNoMember, codeNoMember}, {store.ErrNoTeam, codeNoMember}, {store.ErrMemberExists, codeMemberExists},
		{store.ErrTeamFull, codeTeamFull}, {store.ErrLastAdmin, codeLastAdmin}, {store.ErrMemberMoved, codeConflict},
	} {
		if errors.Is(err, s.is) {
			return newProblem(s.code, plain(err))
		}
	}
	return nil
}

// plain is an error without the name of the package. What it repeats of a request stands in quotes,
// and is not shown if it could be a secret that somebody has put in a wrong place.
func plain(err error) string {
	text, shown := strings.ReplaceAll(err.Error(), "keys: ", ""), ""
	for {
		before, rest, found := strings.Cut(text, `"`)
		shown += before
		if !found {
			return shown
		}
		quoted, err := strconv.QuotedPrefix(`"` + rest)
		if err != nil {
			quoted = `"` + rest // without an end
		}
		if text = (`"` + rest)[len(quoted):]; keys.CouldHoldSecret(quoted) {
			quoted = "(not shown)"
		}
		shown += quoted
	}
}

// asProblem makes a Problem of what the library finds wrong with a request. The library would
// repeat the values.
func asProblem(ctx huma.Context, _ string, v any) (any, error) {
	found, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := codeInternal
	switch {
	case found.Status == http.StatusRequestEntityTooLarge:
		code = codeTooLarge
	case found.Status == http.StatusUnsupportedMediaType:
		code = codeMediaType
	case found.Status == http.StatusUnprocessableEntity:
		code = codeInvalid
	case found.Status < http.StatusInternalServerError:
		code = codeBody
	}
	p := newProblem(code, "")
	p.RequestID = callOf(ctx.Context()).id
	p.Status = found.Status // the header is on its way
	for _, e := range found.Errors {
		if e == nil || len(p.Errors) >= maxFieldProblems {
			continue
		}
		p.Errors = append(p.Errors, FieldProblem{shownName(strings.TrimPrefix(e.Location, "body.")), e.Message})
	}
	return p, nil
}

const maxFieldProblems = 20

// shownName is the name of a field if it could be one: what a client calls a field may be a secret
// in the wrong place.
func shownName(name string) string {
	if len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_.[]0123456789") != "" || keys.CouldHoldSecret(name) {
		return "(not shown)"
	}
	return name
}

// servePage explains a code.
func servePage(w http.ResponseWriter, r *http.Request) {
	for i := range kinds {
		if k := &kinds[i]; k.code == r.PathValue("code") {
			text(w, http.StatusOK, fmt.Sprintf("%s (HTTP %d)\n\n%s\n\n%s\n", k.code, k.status, k.title, k.advice))
			return
		}
	}
	text(w, http.StatusNotFound, "no problem has this code\n")
}
