package tokens_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tollgate/policy/oauth"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/oauthtest"
	"tollgate/policy/oauth/tokens"
)

const (
	url      = "https://login.example.com"
	audience = "https://api.example.com"
)

// house is a Verifier in a bubble of time, in front of an issuer with a key.
type house struct {
	*tokens.Verifier
	server  *oauthtest.Server
	signer  *oauthtest.Signer
	issuers []*oauth.Issuer
}

func of(api string, changes ...func(*oauth.Issuer)) []*oauth.Issuer {
	i := &oauth.Issuer{
		API: api, URL: url, Audiences: []string{audience}, Algorithms: []string{"ES256"}, Leeway: 30 * time.Second,
		StaleFor: time.Hour, ClientClaim: "client_id", ScopeClaim: "scope",
	}
	for _, change := range changes {
		change(i)
	}
	return []*oauth.Issuer{i}
}

func bubble(t *testing.T, options tokens.Options, test func(t *testing.T, h *house)) {
	t.Helper()
	one := oauthtest.NewSigner(t, "one", "ES256")
	synctest.Test(t, func(t *testing.T) {
		h := &house{server: oauthtest.NewServerAt(t, url, one), signer: one, issuers: of("jobs")}
		keeper := issuer.New(issuer.Options{Issuers: func() []*oauth.Issuer { return h.issuers[:1:1] }, Client: &http.Client{Transport: h.server}})
		options.Keys = keeper
		h.Verifier = tokens.New(options)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); keeper.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		test(t, h)
		time.Sleep(time.Second) // what rests after a forged token ends
	})
}

func (h *house) token(t *testing.T, client string) string {
	t.Helper()
	return h.signer.Token(t, oauthtest.Claims(url, audience, client, time.Now()))
}

func (h *house) verify(t *testing.T, issuers []*oauth.Issuer, text string) (*oauth.Token, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	return h.Verify(ctx, issuers, text)
}

// forged is a token with the signature of another.
func (h *house) forged(t *testing.T, client string) string {
	t.Helper()
	parts, other := strings.Split(h.token(t, client), "."), strings.Split(h.token(t, "other"), ".")
	return parts[0] + "." + parts[1] + "." + other[2]
}

func isRefused(err error) bool {
	var refused *oauth.RefusedError
	return errors.As(err, &refused)
}

func isUndecided(err error) bool {
	var undecided *oauth.UndecidedError
	return errors.As(err, &undecided) && undecided.RetryAfter > 0
}

func TestTokensAreKnownOnceTheyWereVerified(t *testing.T) {
	bubble(t, tokens.Options{}, func(t *testing.T, h *house) {
		text := h.token(t, "reports")
		if got, known, err := h.Find(h.issuers, text); got != nil || known || err != nil {
			t.Fatalf("before its first use: %v, %v, %v", got, known, err)
		}
		first, err := h.verify(t, h.issuers, text)
		if err != nil || first.Client != "reports" {
			t.Fatal(first, err)
		}
		again := string([]byte(text)) // another place in memory
		if got, known, err := h.Find(h.issuers, again); got != first || !known || err != nil {
			t.Errorf("again: %v, %v, %v", got, known, err)
		}
		if got, err := h.verify(t, of("jobs"), text); got == nil || err != nil {
			t.Errorf("the same policy, loaded anew: %v", err)
		}
		if _, known, _ := h.Find(of("jobs", func(i *oauth.Issuer) { i.Audiences = []string{"other"} }), text); known {
			t.Error("by another policy")
		}
		if _, known, _ := h.Find(of("other"), text); known {
			t.Error("by another API")
		}
		if _, known, _ := h.Find(h.issuers, text[:len(text)-1]); known {
			t.Error("another token")
		}
		time.Sleep(5*time.Minute + 29*time.Second)
		if _, known, _ := h.Find(h.issuers, text); !known {
			t.Error("within the leeway")
		}
		time.Sleep(time.Second)
		if _, known, _ := h.Find(h.issuers, text); known {
			t.Error("its time is over")
		}
		var refused *oauth.RefusedError
		if _, err := h.verify(t, h.issuers, text); !errors.As(err, &refused) || refused.ExpiredAt.IsZero() {
			t.Errorf("its time is over: %v", err)
		}
		if s := h.Stats(); s.Verified != 1 || s.Refused != 1 || s.Hits != 3 || s.Tokens != 0 || s.Bytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestBadTokens(t *testing.T) {
	bubble(t, tokens.Options{}, func(t *testing.T, h *house) {
		other := oauthtest.Claims("https://evil.example.com", audience, "reports", time.Now())
		for name, text := range map[string]string{
			"forged": h.forged(t, "reports"), "of another issuer": h.signer.Token(t, other), "not JSON": "a.b.c", "opaque": "0123456789abcdef",
			"an unknown kid": h.signer.TokenOf(t, []byte(`{"alg":"ES256","kid":"none","typ":"at+jwt"}`), []byte(`{"iss":"`+url+`","aud":"`+audience+`","client_id":"x","exp":4000000000}`)),
		} {
			for range 2 {
				if got, err := h.verify(t, h.issuers, text); !isRefused(err) || got != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if s := h.Stats(); s.Tokens != 0 || s.Hits != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A key that the issuer takes away takes the tokens along that it has signed.
func TestKeyThatIsTakenAway(t *testing.T) {
	two := oauthtest.NewSigner(t, "two", "ES256")
	bubble(t, tokens.Options{}, func(t *testing.T, h *house) {
		claims := oauthtest.Claims(url, audience, "reports", time.Now())
		claims["exp"] = time.Now().Add(time.Hour).Unix()
		text := h.signer.Token(t, claims)
		if _, err := h.verify(t, h.issuers, text); err != nil {
			t.Fatal(err)
		}
		h.server.Publish(t, two)
		time.Sleep(15*time.Minute + time.Second)
		if _, err := h.verify(t, h.issuers, text); !isRefused(err) {
			t.Errorf("%v", err)
		}
	})
}

// While many forged tokens come at once, few are checked and few wait; tokens that are known stay
// known, and everybody has an answer in time.
func TestFloodOfForgedTokens(t *testing.T) {
	bubble(t, tokens.Options{Parallel: 1}, func(t *testing.T, h *house) {
		good := h.token(t, "reports")
		if _, err := h.verify(t, h.issuers, good); err != nil {
			t.Fatal(err)
		}
		forged := make([]string, 500)
		for i := range forged {
			forged[i] = h.forged(t, fmt.Sprint("client", i))
		}
		var refused, undecided atomic.Int64
		var clients sync.WaitGroup
		for _, text := range forged {
			clients.Go(func() {
				switch _, err := h.verify(t, h.issuers, text); {
				case isRefused(err):
					refused.Add(1)
				case isUndecided(err):
					undecided.Add(1)
				default:
					t.Errorf("%v", err)
				}
				if _, known, err := h.Find(h.issuers, good); !known || err != nil {
					t.Error("a known token is not known")
				}
			})
		}
		clients.Wait()
		if refused.Load() == 0 || undecided.Load() == 0 || h.Stats().Busy == 0 {
			t.Errorf("%d refused, %d undecided, %+v", refused.Load(), undecided.Load(), h.Stats())
		}
	})
}

// Many requests with one token that nobody has seen are one verification.
func TestOneVerificationForAll(t *testing.T) {
	bubble(t, tokens.Options{}, func(t *testing.T, h *house) {
		text := h.token(t, "reports")
		var clients sync.WaitGroup
		for range 300 {
			clients.Go(func() {
				if _, err := h.verify(t, h.issuers, text); err != nil {
					t.Error(err)
				}
			})
		}
		clients.Wait()
		if s := h.Stats(); s.Tokens != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestBoundsOfMemory(t *testing.T) {
	for _, o := range []tokens.Options{{Tokens: 160}, {Bytes: 200 << 10}} {
		bubble(t, o, func(t *testing.T, h *house) {
			often := h.token(t, "often")
			for i := range 1000 {
				if _, err := h.verify(t, h.issuers, h.token(t, fmt.Sprint("client", i))); err != nil {
					t.Fatal(err)
				}
				if _, err := h.verify(t, h.issuers, often); err != nil {
					t.Fatal(err)
				}
			}
			s := h.Stats()
			if o.Tokens > 0 && s.Tokens > o.Tokens || o.Bytes > 0 && s.Bytes > o.Bytes || s.Tokens < 50 {
				t.Errorf("%+v with %+v", s, o)
			}
			if s.Hits < 990 {
				t.Errorf("the one in use was dropped %d times", 1000-s.Hits)
			}
			time.Sleep(time.Hour)
			for i := range 2000 { // those that expired leave for new ones
				if _, err := h.verify(t, h.issuers, h.token(t, fmt.Sprint("later", i))); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// asked is an Introspector that says what the test has it say.
type asked struct {
	known   bool
	err     error
	token   *oauth.Token
	asked   atomic.Int64
	already atomic.Int64
}

func (a *asked) Known(*oauth.Issuer, string) (*oauth.Token, bool, error) {
	a.already.Add(1)
	if !a.known {
		return nil, false, nil
	}
	return a.token, true, a.err
}

func (a *asked) Introspect(context.Context, *oauth.Issuer, string) (*oauth.Token, error) {
	a.asked.Add(1)
	a.known = true
	return a.token, a.err
}

func TestIntrospection(t *testing.T) {
	introspects := func(i oauth.Introspection) func(*oauth.Issuer) {
		return func(of *oauth.Issuer) { of.Introspection = &i }
	}
	a := &asked{token: &oauth.Token{Client: "opaque"}}
	bubble(t, tokens.Options{Introspector: a}, func(t *testing.T, h *house) {
		jwts, opaque := of("jobs", introspects(oauth.Introspection{JWTs: true})), of("jobs", introspects(oauth.Introspection{Opaque: true}))
		text := h.token(t, "reports")
		if got, err := h.verify(t, jwts, text); err != nil || got.Client != "reports" || a.asked.Load() != 1 {
			t.Errorf("a JWT: %v, %v, asked %d times", got, err, a.asked.Load())
		}
		if got, known, err := h.Find(jwts, text); err != nil || !known || got.Client != "reports" {
			t.Errorf("again: %v, %v, %v", got, known, err)
		}
		a.err = &oauth.RefusedError{Why: "it is not active"}
		if _, known, err := h.Find(jwts, text); !known || !isRefused(err) {
			t.Errorf("revoked: %v, %v", known, err)
		}
		if got, err := h.verify(t, opaque, h.token(t, "other")); err != nil || got.Client != "other" {
			t.Errorf("a JWT that is not asked about: %v, %v", got, err)
		}
		a.err, a.known = nil, false
		if got, err := h.verify(t, opaque, "0123456789abcdef"); err != nil || got.Client != "opaque" {
			t.Errorf("an opaque one: %v, %v", got, err)
		}
	})
	bubble(t, tokens.Options{}, func(t *testing.T, h *house) {
		for _, text := range []string{h.token(t, "reports"), "0123456789abcdef"} {
			if _, err := h.verify(t, of("jobs", introspects(oauth.Introspection{JWTs: true, Opaque: true})), text); err == nil || isRefused(err) {
				t.Errorf("nobody was asked: %v", err)
			}
		}
	})
}

func TestRequestsDoNotWaitPastTheirDeadline(t *testing.T) {
	bubble(t, tokens.Options{}, func(t *testing.T, h *house) {
		h.server.Answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		began := time.Now()
		_, err := h.verify(t, h.issuers, h.token(t, "reports"))
		if took := time.Since(began); !isUndecided(err) || took > 100*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
}
