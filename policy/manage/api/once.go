package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/store"
	"tollgate/policy/manage/once"
)

// abandoned is how old a reservation is that no request works on any more: a change has less time.
const abandoned = changeTime + 5*time.Second

// createOnce makes a key for a request that its client has named. Its id is reserved under the name
// first; so whoever sends the request again, at the same time, later, or after a crash, gets the
// same key or none.
func (a *API) createOnce(ctx context.Context, q *createQuestion, draft keys.Key) (*madeAnswer, error) {
	body, err := json.Marshal(q.Body)
	if err != nil {
		return nil, a.problemOf(ctx, err, false)
	}
	who, sum, now := callOf(ctx).who, sha256.Sum256(body), a.config.Now()
	r, fresh, err := a.config.Once.Reserve(ctx, who.ID, q.Once, sum, admin.NewID(), now)
	if errors.Is(err, once.ErrFull) {
		return nil, a.onceProblem(ctx, codeTooManyNames)
	}
	if err != nil {
		return nil, a.problemOf(ctx, err, false) // nothing is made yet
	}
	if !fresh {
		answer, err := a.again(ctx, r, sum)
		if answer != nil || err != nil {
			return answer, err
		}
	}
	m := a.manager(ctx)
	m.UseID(r.ID)
	k, secret, err := m.Create(ctx, draft, false)
	answer, problem := a.made(ctx, k, secret, err)
	a.settle(ctx, r, k, problem)
	return answer, problem
}

// again answers a request whose name was reserved before. Neither an answer nor an error means that
// who reserved it has made nothing and is gone, and that this request is to go on in its place.
func (a *API) again(ctx context.Context, r *once.Reservation, sum [32]byte) (*madeAnswer, error) {
	if r.Body != sum {
		return nil, a.onceProblem(ctx, codeOtherBody)
	}
	if !r.Done && a.config.Now().Sub(r.At) < abandoned {
		return nil, a.onceProblem(ctx, codeInProgress)
	}
	// The manager says what the member may know of the key.
	k, err := a.manager(ctx).Get(ctx, r.ID)
	if err == nil {
		return &madeAnswer{
			Status: http.StatusOK, Location: "/v1/keys/" + k.ID, ETag: etag(k), Replayed: "true",
			Body: ChangedKey{shown(k, a.config.Now()), []string{"an earlier request has made this key, and only its answer has the secret; if that is lost, rotate the key"}},
		}, nil
	}
	if r.Done || !errors.Is(err, store.ErrNoKey) || errors.Is(err, store.ErrDeleted) {
		return nil, a.keyProblem(ctx, err, false)
	}
	won, err := a.config.Once.TakeOver(ctx, r, a.config.Now())
	if err != nil {
		return nil, a.problemOf(ctx, err, false)
	}
	if !won {
		return nil, a.onceProblem(ctx, codeInProgress)
	}
	return nil, nil
}

// settle notes what has become of a reservation. Where that is not known, or cannot be noted, it
// stays as it is, and a later request looks for the key.
func (a *API) settle(ctx context.Context, r *once.Reservation, made *keys.Key, problem error) {
	var p *Problem
	var err error
	switch {
	case made != nil:
		err = a.config.Once.Finish(ctx, r)
	case errors.As(problem, &p) && p.Code != codeUnknownOutcome && p.Code != codeUnreadable:
		err = a.config.Once.Drop(ctx, r)
	}
	if err != nil {
		a.config.Log.Warn("what became of an Idempotency-Key is not noted: "+audit.ResultOf(err), slog.String("request", callOf(ctx).id))
	}
}

func (a *API) onceProblem(ctx context.Context, code string) *Problem {
	p := newProblem(code, "")
	p.RequestID = callOf(ctx).id
	return p
}
