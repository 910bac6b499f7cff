package issuer_test

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
)

const url = "https://login.example.com"

// kept is a Keeper that runs in a bubble of time, in front of one issuer.
type kept struct {
	*issuer.Keeper
	server *oauthtest.Server
	of     *oauth.Issuer
	named  atomic.Pointer[oauth.Issuer] // by the policies
}

// bubble runs a test with an issuer that has a key.
func bubble(t *testing.T, test func(t *testing.T, k *kept)) {
	t.Helper()
	one := oauthtest.NewSigner(t, "one", "ES256")
	synctest.Test(t, func(t *testing.T) {
		k := &kept{server: oauthtest.NewServerAt(t, url, one), of: &oauth.Issuer{API: "jobs", URL: url, StaleFor: time.Hour}}
		k.named.Store(k.of)
		k.Keeper = issuer.New(issuer.Options{Issuers: func() []*oauth.Issuer { return []*oauth.Issuer{k.named.Load()} }, Client: &http.Client{Transport: k.server}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); k.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		test(t, k)
	})
}

// ask looks for a key with the deadline of a decision.
func (k *kept) ask(t *testing.T, kid string) (issuer.Found, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	return k.Find(ctx, k.of, kid, "ES256")
}

func outcome(err error) string {
	var refused *oauth.RefusedError
	var undecided *oauth.UndecidedError
	switch {
	case err == nil:
		return "found"
	case errors.As(err, &refused):
		return "refused"
	case errors.As(err, &undecided) && undecided.RetryAfter > 0:
		return "undecided"
	}
	return err.Error()
}

func (k *kept) want(t *testing.T, kid, want string) {
	t.Helper()
	if _, err := k.ask(t, kid); outcome(err) != want {
		t.Errorf("%s: %v, want it %s", kid, err, want)
	}
}

// away has the issuer answer nothing that helps.
func away(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }

func TestKeysAreFetchedAheadOfTime(t *testing.T) {
	bubble(t, func(t *testing.T, k *kept) {
		k.want(t, "one", "found") // waits for the first fetch
		for range 10 {
			k.want(t, "one", "found")
		}
		if n := k.server.Fetches(); n != 1 {
			t.Errorf("%d fetches", n)
		}
		time.Sleep(15*time.Minute + time.Second) // without Cache-Control
		if n := k.server.Fetches(); n != 2 {
			t.Errorf("%d fetches after a quarter of an hour", n)
		}
		before := 15 * time.Minute
		for _, tt := range []struct {
			cacheControl string
			age          time.Duration
		}{{"max-age=1", 5 * time.Minute}, {"no-store", 5 * time.Minute}, {"public, max-age=3600", time.Hour}, {"max-age=9999999", 24 * time.Hour}} {
			k.server.Keep(tt.cacheControl)
			time.Sleep(before) // the fetch after this one has it
			synctest.Wait()
			fetched := k.server.Fetches()
			time.Sleep(2*tt.age + time.Minute)
			if n := k.server.Fetches() - fetched; n < 1 || n > 2 {
				t.Errorf("%s: %d fetches in %v", tt.cacheControl, n, 2*tt.age)
			}
			before = tt.age
		}
	})
}

// A token with a key that the issuer has published a moment ago waits for it, and is not refused.
func TestNewKeyIsFetchedForTheFirstToken(t *testing.T) {
	two := oauthtest.NewSigner(t, "two", "ES256")
	bubble(t, func(t *testing.T, k *kept) {
		k.want(t, "one", "found")
		k.server.Publish(t, two)
		k.want(t, "two", "found")
		k.want(t, "one", "refused") // the issuer has dropped it
		if n := k.server.Fetches(); n != 2 {
			t.Errorf("%d fetches", n)
		}
	})
}

// A kid is refused once the issuer was asked after it came, and not before; and what is refused is
// looked for again from time to time.
func TestUnknownKeys(t *testing.T) {
	two := oauthtest.NewSigner(t, "two", "ES256")
	bubble(t, func(t *testing.T, k *kept) {
		k.want(t, "one", "found")
		k.want(t, "none", "refused")        // a fetch was made for it
		k.want(t, "../../etc", "undecided") // none may be made so soon
		k.want(t, "two", "undecided")
		k.server.Publish(t, two)
		time.Sleep(29 * time.Second)
		k.want(t, "two", "undecided")
		if n := k.server.Fetches(); n != 2 {
			t.Errorf("%d fetches in 29 s", n)
		}
		time.Sleep(time.Second)
		k.want(t, "two", "found")
		k.want(t, "../../etc", "refused")
		time.Sleep(time.Minute)
		k.want(t, "../../etc", "refused") // and has it looked for again
		synctest.Wait()
		if n := k.server.Fetches(); n != 5 {
			t.Errorf("%d fetches", n)
		}
	})
}

// A thousand random kids a second cost one fetch in 30 s, and no good token is refused while the
// issuer changes its key in between.
func TestRotationDuringAFlood(t *testing.T) {
	two := oauthtest.NewSigner(t, "two", "ES256")
	bubble(t, func(t *testing.T, k *kept) {
		k.want(t, "one", "found")
		began, before := time.Now(), k.server.Fetches()
		found := time.Time{}
		for n := 0; time.Since(began) < 35*time.Second; n++ {
			if n == 1_000 {
				k.server.Publish(t, two)
			}
			for i := range 10 {
				if _, err := k.ask(t, fmt.Sprint("random", n, ".", i)); err == nil {
					t.Fatal("a key that nobody has")
				}
			}
			if n > 1_000 && n%100 == 0 {
				switch _, err := k.ask(t, "two"); outcome(err) {
				case "found":
					if found.IsZero() {
						found = time.Now()
					}
				case "undecided":
					if !found.IsZero() {
						t.Fatal("lost again")
					}
				default:
					t.Fatalf("a good token is refused: %v", err)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := k.server.Fetches() - before; n > 2 {
			t.Errorf("%d fetches in 35 s", n)
		}
		if found.IsZero() {
			t.Error("the new key was never found")
		}
		if s := k.Status(); s[0].Awaited > 1000 {
			t.Errorf("%d kids are remembered", s[0].Awaited)
		}
	})
}

func TestIssuerAwayAtStart(t *testing.T) {
	bubble(t, func(t *testing.T, k *kept) {
		k.server.Answer(away)
		began := time.Now()
		for range 100 {
			k.want(t, "one", "undecided")
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("100 requests took %v", took)
		}
		if s := k.Status()[0]; s.Keys != 0 || !strings.Contains(s.Problem, "502") || s.Failures == 0 {
			t.Errorf("%+v", s)
		}
		k.server.Answer(nil)
		time.Sleep(31 * time.Second)
		k.want(t, "one", "found")
		if s := k.Status()[0]; s.Keys != 1 || s.Problem != "" || s.Fetches != 1 || s.Issuer != url || s.FetchedAt.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// While the issuer is away its keys stay for stale_for beyond their time, and no longer.
func TestIssuerAwayLater(t *testing.T) {
	bubble(t, func(t *testing.T, k *kept) {
		found, err := k.ask(t, "one")
		if err != nil {
			t.Fatal(err)
		}
		k.server.Answer(away)
		time.Sleep(time.Hour + 14*time.Minute)
		k.want(t, "one", "found")
		k.want(t, "two", "undecided") // nobody knows whether it is one
		if !found.Stamp.Valid(time.Now()) {
			t.Error("what was verified is not valid any more")
		}
		time.Sleep(2 * time.Minute)
		k.want(t, "one", "undecided")
		if found.Stamp.Valid(time.Now()) || (issuer.Stamp{}).Valid(time.Now()) {
			t.Error("what was verified is valid without keys")
		}
		k.server.Answer(nil)
		time.Sleep(time.Minute)
		k.want(t, "one", "found")
		if !found.Stamp.Valid(time.Now()) {
			t.Error("the issuer has the key again")
		}
	})
}

// What was verified with a key that the issuer has taken away has to be verified again; a key that
// is added changes nothing.
func TestStamps(t *testing.T) {
	one, two := oauthtest.NewSigner(t, "one", "ES256"), oauthtest.NewSigner(t, "two", "ES256")
	bubble(t, func(t *testing.T, k *kept) {
		k.server.Publish(t, one)
		time.Sleep(15*time.Minute + time.Second)
		found, err := k.ask(t, "one")
		if err != nil {
			t.Fatal(err)
		}
		k.server.Publish(t, one, two)
		time.Sleep(15*time.Minute + time.Second)
		if !found.Stamp.Valid(time.Now()) {
			t.Error("a key more")
		}
		k.server.Publish(t, two)
		time.Sleep(15*time.Minute + time.Second)
		if found.Stamp.Valid(time.Now()) {
			t.Error("the key is gone")
		}
		k.want(t, "one", "refused")
	})
}

// An issuer that no policy names any more is forgotten, and one that is named again begins anew.
func TestFollowedIssuers(t *testing.T) {
	bubble(t, func(t *testing.T, k *kept) {
		found, err := k.ask(t, "one")
		if err != nil {
			t.Fatal(err)
		}
		k.of = &oauth.Issuer{API: "jobs", URL: url, JWKS: url + "/jwks", StaleFor: time.Hour}
		k.named.Store(k.of)
		time.Sleep(2 * time.Second)
		if s := k.Status(); len(s) != 1 || found.Stamp.Valid(time.Now()) {
			t.Errorf("%+v", s)
		}
		k.want(t, "one", "found")
		if k.Discovered(k.of).Introspection != "" { // to ask of the other would begin with it again
			t.Error("discovered without a look")
		}
	})
}

// A deadline that is short is kept to.
func TestDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T, k *kept) {
		k.want(t, "one", "found")
		slow := make(chan struct{})
		defer close(slow)
		k.server.Answer(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-slow:
			case <-r.Context().Done():
			}
		})
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				began := time.Now()
				k.want(t, "two", "undecided")
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("%v", took)
				}
			})
		}
		all.Wait()
	})
}
