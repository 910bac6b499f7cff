package extauthztest

import (
	"context"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
	"tollgate/policy/policyfile"
)

// BrokenStore answers as its functions say.
type BrokenStore struct {
	OnLookup func(context.Context) (keys.Grant, error)
	OnSpend  func(context.Context) (limits.Result, error)
}

// Lookup implements extauthz.KeyFinder.
func (b BrokenStore) Lookup(ctx context.Context, _ keys.Digest) (keys.Grant, error) {
	return b.OnLookup(ctx)
}

// Try implements extauthz.Spender: it has nothing at once.
func (b BrokenStore) Try(*limits.Spend, *limits.Result) bool { return false }

// Spend implements extauthz.Spender.
func (b BrokenStore) Spend(ctx context.Context, _ *limits.Spend) (limits.Result, error) {
	return b.OnSpend(ctx)
}

// Found finds the small API's key.
func Found(context.Context) (keys.Grant, error) {
	_, entries := SmallKey()
	return *keys.NewGrant(&entries[0].Key), nil
}

// AskBroken asks about one good request on such a store.
func AskBroken(t *testing.T, file policyfile.File, b BrokenStore, change func(*extauthz.Config)) (*Stack, *authv3.CheckResponse, error) {
	t.Helper()
	s := NewStack(t, func(c *extauthz.Config) {
		c.Keys, c.Limits = b, b
		if change != nil {
			change(c)
		}
	}, file)
	secret, _ := SmallKey()
	resp, err := authv3.NewAuthorizationClient(s.Dial(t)).Check(Within(t), Get("/items/1", map[string]string{"authorization": "Bearer " + secret}))
	return s, resp, err
}

// Allowing is a store that knows every key and refuses nothing.
func Allowing() BrokenStore {
	return BrokenStore{OnLookup: Found, OnSpend: func(context.Context) (limits.Result, error) {
		return limits.Result{Allowed: true, Now: time.Now(), States: make([]limits.State, 1)}, nil
	}}
}
