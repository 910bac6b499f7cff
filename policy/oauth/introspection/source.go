package introspection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
)

const (
	// maxCalls bounds the calls to one issuer at once, perSecond those in a second.
	maxCalls  = 32
	perSecond = 200
	// knownPart of either is for tokens that were active before.
	knownPart = 4

	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 64 << 10

	// tripAfter failures in a row no call is made for openFor, then one that tries.
	tripAfter = 5
	openFor   = time.Second
)

// sourceName is what makes another place to ask at.
type sourceName struct{ issuer, endpoint, client, secretFile, keyFile string }

// source is an issuer that is asked with the credential of one client.
type source struct {
	name       sourceName
	options    Options
	credential credential
	breaker    *gobreaker.CircuitBreaker[*oauth.Claims]
	rate       *rate.Limiter // of all calls
	guesses    *rate.Limiter // of those about tokens that were never active

	used time.Time // guarded by the Asker

	mu       sync.Mutex
	calls    int    // under way
	strange  int    // of them, about tokens that were never active
	problem  string // of the last call, "" if it was answered
	answered uint64
	failures uint64
	busy     uint64
}

func newSource(name sourceName, o Options) *source {
	return &source{
		name: name, options: o, credential: credential{name: name, now: o.Now},
		breaker: gobreaker.NewCircuitBreaker[*oauth.Claims](gobreaker.Settings{
			Timeout: openFor, ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
			IsExcluded: func(err error) bool { return errors.Is(err, errBusy) },
		}),
		rate: rate.NewLimiter(perSecond, perSecond), guesses: rate.NewLimiter(perSecond-perSecond/knownPart, perSecond-perSecond/knownPart),
	}
}

// errBusy says that a call was not made, and nothing of the issuer.
var errBusy = errors.New("too many tokens are asked about")

// ask returns what the issuer says about a token. before says that the token was active when it was
// last asked about. Errors: a *oauth.UndecidedError.
func (s *source) ask(ctx context.Context, i *oauth.Issuer, endpoint, text string, before bool) (*oauth.Claims, error) {
	claims, err := s.breaker.Execute(func() (*oauth.Claims, error) {
		if !s.enter(before) {
			return nil, errBusy
		}
		defer s.leave(before)
		ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
		defer cancel()
		claims, err := s.call(ctx, i, endpoint, text)
		s.told(err)
		return claims, err
	})
	switch {
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		return nil, &oauth.UndecidedError{Why: "the issuer did not answer the last times, and is not asked", RetryAfter: openFor}
	case errors.Is(err, errBusy):
		return nil, &oauth.UndecidedError{Why: err.Error(), RetryAfter: time.Second}
	case err != nil:
		return nil, &oauth.UndecidedError{Why: "the issuer has not answered: " + err.Error(), RetryAfter: time.Second}
	}
	return claims, nil
}

// enter takes a place among the calls, if there is one for such a token.
func (s *source) enter(before bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	free := s.calls < maxCalls && (before || s.strange < maxCalls-maxCalls/knownPart)
	if !free || !before && !s.guesses.AllowN(now, 1) || !s.rate.AllowN(now, 1) {
		s.busy++
		return false
	}
	s.calls++
	if !before {
		s.strange++
	}
	return true
}

func (s *source) leave(before bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	if !before {
		s.strange--
	}
}

// call makes a call. No error holds a part of the token, of the credential or of the answer.
func (s *source) call(ctx context.Context, i *oauth.Issuer, endpoint, text string) (*oauth.Claims, error) {
	form := url.Values{"token": {text}, "token_type_hint": {"access_token"}}
	user, password, err := s.credential.authenticate(i, form)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("no request")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "tollgate")
	if password != "" {
		// RFC 6749 section 2.3.1: both are form-encoded first.
		req.SetBasicAuth(url.QueryEscape(user), url.QueryEscape(password))
	}
	reply, err := s.options.Client.Do(req)
	if err != nil {
		return nil, s.plain(err)
	}
	defer func() { _ = reply.Body.Close() }()
	return s.read(reply)
}

// plain is an error of a call without its URL and whatever was answered.
func (s *source) plain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", s.options.Timeout)
	}
	return issuer.Plain(err)
}

// read reads an answer.
func (s *source) read(reply *http.Response) (*oauth.Claims, error) {
	switch {
	case reply.StatusCode/100 == 3:
		return nil, fmt.Errorf("it answers %d: redirects are not followed", reply.StatusCode)
	case reply.StatusCode == http.StatusUnauthorized:
		return nil, errors.New("it answers 401: it does not take the client_id with this credential")
	case reply.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %d", reply.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(reply.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, errors.New("its answer is not application/json")
	}
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxAnswer+1))
	if err != nil {
		return nil, s.plain(err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	claims, err := oauth.ParseClaims(body)
	if err != nil {
		return nil, errors.New("its answer: " + err.Error())
	}
	return claims, activeProblem(body)
}

// activeProblem is about the one member that every answer has (RFC 7662 section 2.2). An answer
// without it is none: a token must not be refused for what a broken issuer says.
func activeProblem(body []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return errors.New("its answer is not JSON")
	}
	if active := string(members["active"]); active != "true" && active != "false" {
		return errors.New("its answer does not say true or false for active")
	}
	return nil
}

// told notes how a call went, and logs what has changed.
func (s *source) told(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	problem := ""
	if err != nil {
		problem = err.Error()
		s.failures++
	} else {
		s.answered++
	}
	switch log := s.options.Log; {
	case problem != "" && problem != s.problem:
		log.Warn("an issuer does not answer about tokens", slog.String("issuer", s.name.issuer), slog.String("error", problem))
	case problem == "" && s.problem != "":
		log.Info("an issuer answers about tokens again", slog.String("issuer", s.name.issuer))
	}
	s.problem = problem
}

func (s *source) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{s.name.issuer, s.problem, s.answered, s.failures, s.busy}
}
