package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/store"
)

// searchTime is how long a list looks for keys that match.
const searchTime = 300 * time.Millisecond

// operation describes one endpoint. Refusals are described once, here.
func operation(h huma.API, id, method, path, summary string, status int, body any) huma.Operation {
	r := h.OpenAPI().Components.Schemas
	content := func(kind string, v any) map[string]*huma.MediaType {
		if v == nil {
			return nil
		}
		return map[string]*huma.MediaType{kind: {Schema: r.Schema(reflect.TypeOf(v), true, "")}}
	}
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, DefaultStatus: status, MaxBodyBytes: maxBody,
		Responses: map[string]*huma.Response{
			strconv.Itoa(status): {Description: http.StatusText(status), Content: content("application/json", body)},
			"default":            {Description: "Refused, or failed", Content: content(problemType, Problem{})},
		},
	}
}

// Answers.
type (
	// ChangedKey is a key after a change.
	ChangedKey struct {
		Key      Key      `json:"key"`
		Warnings []string `json:"warnings,omitempty" nullable:"false" doc:"What is not well although the change is made"`
	}
	// MadeKey is a new key with its secret.
	MadeKey struct {
		Key      Key      `json:"key"`
		Secret   string   `json:"secret" doc:"What clients present. It is shown this once and kept nowhere"`
		Warnings []string `json:"warnings,omitempty" nullable:"false" doc:"What is not well although the key is made"`
	}
	// KeyPage is a part of a list.
	KeyPage struct {
		Keys          []Key    `json:"keys" nullable:"false"`
		NextPageToken string   `json:"next_page_token,omitempty" doc:"The page_token of the next page; missing at the end. A page with one may be short, or empty"`
		Unreadable    []string `json:"unreadable,omitempty" nullable:"false" doc:"Ids of records that cannot be read"`
	}

	keyAnswer struct {
		ETag string `header:"ETag"`
		Body Key
	}
	changedAnswer struct {
		Status int
		ETag   string `header:"ETag"`
		Body   ChangedKey
	}
	madeAnswer struct {
		Status   int
		Location string `header:"Location"`
		ETag     string `header:"ETag"`
		Replayed string `header:"Idempotent-Replayed"`
		Body     any    // a MadeKey, or a ChangedKey where the secret was shown before
	}
	pageAnswer struct{ Body KeyPage }
)

// Questions.
type (
	keyPath struct {
		ID string `path:"id" example:"key_0123456789abcdef"`
	}
	listQuestion struct {
		PageSize    int       `query:"page_size" minimum:"1" maximum:"1000" default:"100"`
		PageToken   string    `query:"page_token" doc:"next_page_token of the page before, with the same filters"`
		Plan        string    `query:"plan"`
		Environment string    `query:"environment"`
		Status      []string  `query:"status" enum:"active,inactive,revoked" nullable:"false"`
		Created     time.Time `query:"created_before"`
		Unused      time.Time `query:"unused_since"`
	}
	createQuestion struct {
		Once string `header:"Idempotency-Key" maxLength:"255" doc:"Names this request, for 24 hours: sent again, it makes no other key"`
		Body NewKey
	}
	patchQuestion struct {
		ID      string `path:"id"`
		IfMatch string `header:"If-Match" doc:"The ETag that the change is meant for; without it the change is made on whatever stands"`
		Body    KeyPatch
	}
	rotateQuestion struct {
		ID   string `path:"id"`
		Body *Rotation
	}
	// Rotation says how a key is rotated.
	Rotation struct {
		GraceSeconds *int64 `json:"grace_seconds,omitempty" minimum:"0" maximum:"7776000" doc:"How long the old secret still works; a day if it is not said"`
	}
)

const defaultGrace = 24 * time.Hour

// addKeys registers the operations on keys.
func (a *API) addKeys(h huma.API) {
	huma.Register(h, operation(h, "listKeys", http.MethodGet, "/v1/keys", "List the keys of the team", http.StatusOK, KeyPage{}), a.listKeys)
	create := operation(h, "createKey", http.MethodPost, "/v1/keys", "Make a key", http.StatusCreated, MadeKey{})
	create.Responses[strconv.Itoa(http.StatusOK)] = &huma.Response{
		Description: "An earlier request with this Idempotency-Key has made the key, and its answer had the secret",
		Content:     operation(h, "", "", "", "", http.StatusOK, ChangedKey{}).Responses[strconv.Itoa(http.StatusOK)].Content,
	}
	huma.Register(h, create, a.createKey)
	huma.Register(h, operation(h, "getKey", http.MethodGet, "/v1/keys/{id}", "Show a key", http.StatusOK, Key{}), a.getKey)
	patch := operation(h, "patchKey", http.MethodPatch, "/v1/keys/{id}", "Change fields of a key (JSON merge patch)", http.StatusOK, ChangedKey{})
	huma.Register(h, patch, a.patchKey)
	huma.Register(h, operation(h, "rotateKey", http.MethodPost, "/v1/keys/{id}/rotate", "Make a successor; the key itself stops after a grace", http.StatusCreated, MadeKey{}), a.rotateKey)
	revoke := operation(h, "revokeKey", http.MethodPost, "/v1/keys/{id}/revoke", "End a key for good", http.StatusOK, ChangedKey{})
	revoke.Responses[strconv.Itoa(http.StatusAccepted)] = &huma.Response{
		Description: "Revoked, but not confirmed everywhere: the warnings say by whom. Revoke again",
		Content:     revoke.Responses[strconv.Itoa(http.StatusOK)].Content,
	}
	huma.Register(h, revoke, a.changer((*admin.Manager).Revoke))
	huma.Register(h, operation(h, "deactivateKey", http.MethodPost, "/v1/keys/{id}/deactivate", "Switch a key off until it is activated", http.StatusOK, ChangedKey{}), a.changer((*admin.Manager).Deactivate))
	huma.Register(h, operation(h, "activateKey", http.MethodPost, "/v1/keys/{id}/activate", "Switch a key on again", http.StatusOK, ChangedKey{}), a.changer((*admin.Manager).Activate))
	huma.Register(h, operation(h, "deleteKey", http.MethodDelete, "/v1/keys/{id}", "Remove a revoked key; its id is never used again", http.StatusOK, ChangedKey{}), a.changer((*admin.Manager).Delete))
	h.OpenAPI().Paths["/v1/keys/{id}"].Patch.RequestBody.Content["application/merge-patch+json"] =
		h.OpenAPI().Paths["/v1/keys/{id}"].Patch.RequestBody.Content["application/json"]
}

func (a *API) listKeys(ctx context.Context, q *listQuestion) (*pageAnswer, error) {
	f := store.Filter{Plan: q.Plan, Environment: q.Environment, OlderThan: q.Created, UnusedSince: q.Unused}
	for _, s := range q.Status {
		f.Status = append(f.Status, keys.Status(s))
	}
	page := KeyPage{Keys: []Key{}, NextPageToken: q.PageToken}
	began := a.config.Now()
	for {
		found, next, err := a.manager(ctx).List(ctx, f, page.NextPageToken, q.PageSize)
		for _, bad := range unreadable(err) {
			if len(page.Unreadable) < store.MaxPage {
				page.Unreadable = append(page.Unreadable, bad)
			}
		}
		if err != nil && len(unreadable(err)) == 0 {
			return nil, a.listProblem(ctx, err)
		}
		for _, k := range found {
			page.Keys = append(page.Keys, shown(k, a.config.Now()))
		}
		if page.NextPageToken = next; next == "" || len(page.Keys) > 0 || a.config.Now().Sub(began) >= searchTime {
			return &pageAnswer{page}, nil
		}
	}
}

// listProblem names the cursor as the API does.
func (a *API) listProblem(ctx context.Context, err error) *Problem {
	p := a.problemOf(ctx, err, false)
	for i := range p.Errors {
		if p.Errors[i].Field == "cursor" {
			p.Errors[i] = FieldProblem{"page_token", "is not what a list with these filters returned"}
			p.Detail = "page_token: " + p.Errors[i].Message
		}
	}
	return p
}

// unreadable returns the ids of records that cannot be read, if the error is about nothing else.
func unreadable(err error) (ids []string) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			var corrupt *keys.CorruptError
			if !errors.As(e, &corrupt) {
				return nil
			}
			ids = append(ids, corrupt.ID)
		}
	}
	return ids
}

func (a *API) getKey(ctx context.Context, q *keyPath) (*keyAnswer, error) {
	k, err := a.manager(ctx).Get(ctx, q.ID)
	if err != nil {
		return nil, a.keyProblem(ctx, err, false)
	}
	return &keyAnswer{etag(k), shown(k, a.config.Now())}, nil
}

// keyProblem says of a text that is no id what it says of a key that there is not.
func (a *API) keyProblem(ctx context.Context, err error, change bool) *Problem {
	var field *keys.FieldError
	if errors.As(err, &field) && field.Field == "id" {
		err = store.ErrNoKey
	}
	return a.problemOf(ctx, err, change)
}

func etag(k *keys.Key) string { return `"` + strconv.FormatInt(k.Version, 10) + `"` }

func (a *API) createKey(ctx context.Context, q *createQuestion) (*madeAnswer, error) {
	if err := a.pepper(ctx); err != nil {
		return nil, err
	}
	draft, err := q.Body.key()
	if err != nil {
		return nil, a.problemOf(ctx, err, false)
	}
	if q.Once != "" {
		return a.createOnce(ctx, q, draft)
	}
	k, secret, err := a.manager(ctx).Create(ctx, draft, false)
	return a.made(ctx, k, secret, err)
}

// pepper refuses to hash with another pepper than the servers. To look costs ten milliseconds of
// computing, so what was found counts for a moment.
func (a *API) pepper(ctx context.Context) error {
	err := a.peppered.ask(ctx, a.config.Now, a.config.CheckPepper)
	if err == nil {
		return nil
	}
	p := newProblem(codePepper, "")
	p.RequestID = callOf(ctx).id
	a.config.Log.Error("no key was made: " + plain(err))
	return p
}

// made is a new key with its secret, also where something else went wrong after it was made.
func (a *API) made(ctx context.Context, k *keys.Key, secret string, err error) (*madeAnswer, error) {
	if k == nil {
		return nil, a.keyProblem(ctx, err, true)
	}
	return &madeAnswer{
		Status: http.StatusCreated, Location: "/v1/keys/" + k.ID, ETag: etag(k),
		Body: MadeKey{shown(k, a.config.Now()), secret, a.warnings(ctx, err)},
	}, nil
}

func (a *API) patchKey(ctx context.Context, q *patchQuestion) (*changedAnswer, error) {
	version, err := versionOf(q.IfMatch)
	if err != nil {
		return nil, a.problemOf(ctx, err, false)
	}
	patch, err := q.Body.change(version)
	if err != nil {
		return nil, a.problemOf(ctx, err, false)
	}
	k, err := a.manager(ctx).Update(ctx, q.ID, patch)
	if k == nil && version != 0 && errors.Is(err, store.ErrConflict) {
		p := newProblem(codeVersion, "")
		p.RequestID = callOf(ctx).id
		return nil, p
	}
	return a.changed(ctx, k, err)
}

// noVersion is what no key has.
const noVersion = -1

// versionOf reads If-Match: 0 for every version. A weak or foreign tag matches none.
func versionOf(header string) (int64, error) {
	header = strings.TrimSpace(header)
	if header == "" || header == "*" {
		return 0, nil
	}
	if strings.Contains(header, ",") {
		return 0, &keys.FieldError{Field: "if-match", Problem: "names more than one ETag"}
	}
	digits, ok := strings.CutPrefix(header, `"`)
	digits, end := strings.CutSuffix(digits, `"`)
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || !end || err != nil || n < 1 {
		return noVersion, nil
	}
	return n, nil
}

func (a *API) rotateKey(ctx context.Context, q *rotateQuestion) (*madeAnswer, error) {
	if err := a.pepper(ctx); err != nil {
		return nil, err
	}
	grace := defaultGrace
	if q.Body != nil && q.Body.GraceSeconds != nil {
		grace = time.Duration(*q.Body.GraceSeconds) * time.Second
	}
	k, secret, err := a.manager(ctx).Rotate(ctx, q.ID, grace)
	return a.made(ctx, k, secret, err)
}

// changer is an operation that only switches a key.
func (a *API) changer(do func(m *admin.Manager, ctx context.Context, id string) (*keys.Key, error)) func(context.Context, *keyPath) (*changedAnswer, error) {
	return func(ctx context.Context, q *keyPath) (*changedAnswer, error) {
		k, err := do(a.manager(ctx), ctx, q.ID)
		return a.changed(ctx, k, err)
	}
}

// changed is a key after a change, also where something else went wrong after it was made.
func (a *API) changed(ctx context.Context, k *keys.Key, err error) (*changedAnswer, error) {
	if k == nil {
		return nil, a.keyProblem(ctx, err, true)
	}
	answer := &changedAnswer{Status: http.StatusOK, ETag: etag(k), Body: ChangedKey{shown(k, a.config.Now()), a.warnings(ctx, err)}}
	if errors.Is(err, admin.ErrUnconfirmed) || errors.Is(err, store.ErrUnheard) {
		answer.Status = http.StatusAccepted
	}
	return answer, nil
}

// warnings are what is not well beside a change that is made. What is not about the change itself
// is for the log.
func (a *API) warnings(ctx context.Context, err error) (list []string) {
	if err == nil {
		return nil
	}
	a.config.Log.Warn("a change over the management API is made, but not all is well: "+audit.ResultOf(err), "request", callOf(ctx).id)
	for _, known := range []error{admin.ErrUnconfirmed, audit.ErrOutcomeLost} {
		if errors.Is(err, known) {
			list = append(list, plain(known))
		}
	}
	if errors.Is(err, store.ErrUnheard) {
		list = append(list, plain(store.ErrUnheard))
	}
	if len(list) == 0 {
		list = []string{"the change is made, but not everything that belongs to it; the operator's log says more"}
	}
	return list
}
