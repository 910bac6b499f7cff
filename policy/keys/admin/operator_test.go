package admin

import (
	"errors"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
)

// plainRules knows every name and caps what it is told to.
type plainRules struct{ caps map[string]int } // by "plan/environment"

func (plainRules) ValidateKey(k *keys.Key) error {
	if k.Plan == "gold" {
		return &keys.FieldError{Field: "plan", Problem: "unknown"}
	}
	return nil
}

func (r plainRules) Cap(_, plan, environment string) (int, bool) {
	most, ok := r.caps[plan+"/"+environment]
	return most, ok
}

func (plainRules) HoldsSecret(_, text string) bool { return keys.HoldsSecret(text, "pk_live_") }

// Limit knows one limit of each plan, by the length of the plan's name.
func (plainRules) ValidateLimits(*keys.Key) error { return nil }

func (plainRules) ValidateExtra(_ *keys.Key, x keys.Extra) error {
	if x.Name == "gone" {
		return errors.New("no limit gone")
	}
	return nil
}
func (plainRules) ValidateSecret(*keys.Key, string) error { return nil }

func (plainRules) MaxAddresses(api string) int { return map[string]int{"wide": 2000}[api] }

func (plainRules) Limit(_, plan, name string) (int64, bool) {
	return int64(10 * len(plan)), plan != "" && name == "minute"
}

func (plainRules) Prefix(api, environment string) (string, error) {
	if environment == "moon" {
		return "", &keys.FieldError{Field: "environment", Problem: "unknown"}
	}
	return "pk_" + environment + "_", nil
}

func operatorOf(c redis.UniversalClient, caps map[string]int) *Manager {
	return NewManager(store.New(c), keys.NewHasher([]byte("pepper")), plainRules{caps}, audit.New(c, 1000),
		roles.Actor{Name: "ops", Operator: true}, keystest.Noon)
}

// liveKey is what a caller of Create says.
func liveKey(edits ...func(*keys.Key)) keys.Key {
	k := keys.Key{API: "pictify", Team: "orbit", Name: "site", Environment: "live", Plan: "free", Scopes: []string{"render"}}
	for _, edit := range edits {
		edit(&k)
	}
	return k
}

func mustCreate(t *testing.T, m *Manager, edits ...func(*keys.Key)) (*keys.Key, string) {
	t.Helper()
	k, secret, err := m.Create(t.Context(), liveKey(edits...), false)
	if err != nil {
		t.Fatal(err)
	}
	return k, secret
}

// messages returns what is published while f runs.
func messages(t *testing.T, c redis.UniversalClient, f func()) []string {
	t.Helper()
	sub := keystest.Administrator(t, c).Subscribe(t.Context(), keystest.Changes)
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	incoming := sub.Channel(redis.WithChannelSize(10_000))
	f()
	if err := c.Publish(t.Context(), keystest.Changes, "the end").Err(); err != nil {
		t.Fatal(err)
	}
	var all []string
	for {
		select {
		case m := <-incoming:
			if m.Payload == "the end" {
				return all
			}
			all = append(all, m.Payload)
		case <-time.After(10 * time.Second):
			t.Fatal("the end was not heard")
		}
	}
}
