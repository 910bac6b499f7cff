package keys

import (
	"reflect"
	"testing"
)

// Profiles are shared by keys that are alike, and by no others.
func TestProfilesAreShared(t *testing.T) {
	c := NewCache(nil, CacheOptions{})
	base := FullKey()
	same := FullKey()
	same.ID, same.Name, same.Team, same.Digest, same.Note, same.AnchorDay = "key_other", "Other", "other", Digest{9}, "", 3
	if c.profile(base) != c.profile(same) {
		t.Error("keys that are alike have two profiles")
	}
	seen := map[*Profile]string{c.profile(base): "base"}
	for name, edit := range map[string]func(*Key){
		"api":         func(k *Key) { k.API = "other" },
		"environment": func(k *Key) { k.Environment = "other" },
		"plan":        func(k *Key) { k.Plan = "other" },
		"status":      func(k *Key) { k.Status = Active },
		"scopes":      func(k *Key) { k.Scopes = []string{"read"} },
		"scope order": func(k *Key) { k.Scopes = []string{"write", "read"} },
		"joined":      func(k *Key) { k.Scopes = []string{"readwrite"} },
		"no scopes":   func(k *Key) { k.Scopes = nil },
		"addresses":   WithIPs("192.0.2.1"),
		"requests":    func(k *Key) { k.Limits[1].Requests++ },
		"limits":      func(k *Key) { k.Limits = k.Limits[:1] },
		"shifted":     func(k *Key) { k.Environment, k.Plan = k.Environment+k.Plan, "" },
	} {
		k := FullKey()
		edit(k)
		p := c.profile(k)
		if other, ok := seen[p]; ok {
			t.Errorf("%s has the profile of %s", name, other)
		}
		seen[p] = name
		if !reflect.DeepEqual(p, NewProfile(k)) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
