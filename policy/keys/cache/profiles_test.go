package cache

import (
	"reflect"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// Profiles are shared by keys that are alike, and by no others.
func TestProfilesAreShared(t *testing.T) {
	c := New(nil, Options{})
	base := keystest.FullKey()
	same := keystest.FullKey()
	same.ID, same.Name, same.Team, same.Digest, same.Note, same.AnchorDay = "key_other", "Other", "other", keys.Digest{9}, "", 3
	if c.profile(base) != c.profile(same) {
		t.Error("keys that are alike have two profiles")
	}
	seen := map[*keys.Profile]string{c.profile(base): "base"}
	for name, edit := range map[string]func(*keys.Key){
		"api":         func(k *keys.Key) { k.API = "other" },
		"environment": func(k *keys.Key) { k.Environment = "other" },
		"plan":        func(k *keys.Key) { k.Plan = "other" },
		"status":      func(k *keys.Key) { k.Status = keys.Active },
		"scopes":      func(k *keys.Key) { k.Scopes = []string{"read"} },
		"scope order": func(k *keys.Key) { k.Scopes = []string{"write", "read"} },
		"joined":      func(k *keys.Key) { k.Scopes = []string{"readwrite"} },
		"no scopes":   func(k *keys.Key) { k.Scopes = nil },
		"addresses":   keystest.WithIPs("192.0.2.1"),
		"requests":    func(k *keys.Key) { k.Limits[1].Requests++ },
		"limits":      func(k *keys.Key) { k.Limits = k.Limits[:1] },
		"extra":       func(k *keys.Key) { k.Extras[0].Requests++ },
		"until":       func(k *keys.Key) { k.Extras[0].Until = k.Extras[0].Until.Add(1) },
		"extras":      func(k *keys.Key) { k.Extras = k.Extras[:1] },
		"no extras":   func(k *keys.Key) { k.Extras = nil },
		"shifted":     func(k *keys.Key) { k.Environment, k.Plan = k.Environment+k.Plan, "" },
	} {
		k := keystest.FullKey()
		edit(k)
		p := c.profile(k)
		if other, ok := seen[p]; ok {
			t.Errorf("%s has the profile of %s", name, other)
		}
		seen[p] = name
		if !reflect.DeepEqual(p, keys.NewProfile(k)) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
