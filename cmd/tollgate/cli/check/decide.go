package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
	"tollgate/policy/oauth"
	"tollgate/policy/oauth/introspection"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/tokens"
)

// decision is one that is made, and what was read for it.
type decision struct {
	policy.Check
	held []int64 // of each limit, what servers hold in leases
}

// decide takes a request through the policy, as a server does, and changes nothing on its way. An
// error says that the store could not be asked.
func decide(ctx context.Context, w *World, set *policy.Set, r *policy.Request, now func() time.Time) (*decision, error) {
	if !w.Who.Operator {
		if err := w.Who.Check(roles.ActionView, w.Who.API, w.Who.Team); err != nil {
			return nil, err
		}
	}
	d := &decision{}
	wait := policy.NewDecider(w.Hasher, nil, now).Begin(&d.Check, set, r)
	for wait != policy.Done {
		switch wait {
		case policy.WaitToken:
			wait = d.Verified(verify(ctx, &d.Check))
		case policy.WaitKey:
			grant, err := lookUp(ctx, w, d.Digest())
			if err != nil && !told(err) {
				return nil, err
			}
			wait = d.Found(grant, err)
		case policy.WaitLimits:
			err := d.peek(ctx, w)
			if err != nil && !told(err) {
				return nil, fmt.Errorf("%w; the rights that this needs: tollgate store acl cli", err)
			}
			wait = d.Spent(err)
		}
	}
	return d, nil
}

// verifyTime is how long an issuer may take to be asked for its keys.
const verifyTime = 10 * time.Second

// verify verifies the token, with the keys that its issuer has now.
func verify(ctx context.Context, check *policy.Check) (*oauth.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	issuers, text := check.Token()
	client := issuer.NewClient()
	defer client.CloseIdleConnections()
	keeper := issuer.New(issuer.Options{Issuers: func() []*oauth.Issuer { return issuers }, Client: client})
	asker := introspection.New(introspection.Options{
		Endpoint: func(i *oauth.Issuer) string {
			_, _ = keeper.Find(ctx, i, "", i.Algorithms[0]) // waits for what the issuer says of itself
			return keeper.Discovered(i).Introspection
		},
		Client: client, Timeout: verifyTime,
	})
	defer asker.Close()
	ended := make(chan struct{})
	go func() { defer close(ended); keeper.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	return tokens.New(tokens.Options{Keys: keeper, Introspector: asker}).Verify(ctx, issuers, text)
}

// told reports whether an error is an answer of the store.
func told(err error) bool {
	var corrupt *keys.CorruptError
	var broken *limits.BrokenError
	return errors.Is(err, keys.ErrUnknown) || errors.As(err, &corrupt) || errors.As(err, &broken)
}

// lookUp finds a key. One that the actor must not know of is unknown.
func lookUp(ctx context.Context, w *World, digest keys.Digest) (keys.Grant, error) {
	k, err := store.New(w.Client).Lookup(ctx, digest)
	switch {
	case err != nil:
		return keys.Grant{}, err
	case !w.Who.Sees(k):
		return keys.Grant{}, keys.ErrUnknown
	}
	return *keys.NewGrant(k), nil
}

// peek reads the counters in place of spending.
func (d *decision) peek(ctx context.Context, w *World) (err error) {
	*d.Result(), d.held, err = counters.NewStore(w.Client, nil).Peek(ctx, d.Spend())
	return err
}
