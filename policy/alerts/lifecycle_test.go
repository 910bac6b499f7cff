package alerts_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/alerts"
	"tollgate/policy/keys"
)

const day = 24 * time.Hour

func now() time.Time { return time.Date(2026, 11, 30, 18, 0, 0, 0, time.UTC) }

func rules() *policy.Alerts {
	return &policy.Alerts{ExpiringWithin: 14 * day, RotateAfter: 90 * day, UnusedFor: 60 * day}
}

// key is one that nothing is to be told of, changed.
func key(change func(k *keys.Key)) *keys.Key {
	k := &keys.Key{ID: "key_0001", API: "jobs", Team: "acme", Plan: "free", Status: keys.Active, CreatedAt: now().Add(-10 * day), LastUsed: now().Add(-time.Minute)}
	change(k)
	return k
}

// What is told of a key begins on the day that the policy says, and not before.
func TestOfKey(t *testing.T) {
	for name, c := range map[string]struct {
		change func(k *keys.Key)
		want   string
	}{
		"young and used":        {func(*keys.Key) {}, ""},
		"expiring in 14 days":   {func(k *keys.Key) { k.ExpiresAt = now().Add(14 * day) }, "key.expiring"},
		"expiring in more":      {func(k *keys.Key) { k.ExpiresAt = now().Add(14*day + 1) }, ""},
		"expired":               {func(k *keys.Key) { k.ExpiresAt = now() }, ""},
		"90 days old":           {func(k *keys.Key) { k.CreatedAt = now().Add(-90 * day) }, "key.rotation_due"},
		"not quite 90 days old": {func(k *keys.Key) { k.CreatedAt = now().Add(-90*day + time.Second) }, ""},
		"unused for 60 days":    {func(k *keys.Key) { k.CreatedAt, k.LastUsed = now().Add(-80*day), now().Add(-60*day) }, "key.unused"},
		"never used in 60 days": {func(k *keys.Key) { k.CreatedAt, k.LastUsed = now().Add(-60*day), time.Time{} }, "key.unused"},
		"not quite unused":      {func(k *keys.Key) { k.LastUsed, k.CreatedAt = now().Add(-60*day+time.Second), now().Add(-80*day) }, ""},
		"new and never used":    {func(k *keys.Key) { k.LastUsed = time.Time{} }, ""},
		"all of it": {func(k *keys.Key) {
			k.CreatedAt, k.LastUsed, k.ExpiresAt = now().Add(-99*day), time.Time{}, now().Add(day)
		}, "key.expiring key.rotation_due key.unused"},
		"of an age that nobody knows": {func(k *keys.Key) { k.CreatedAt, k.LastUsed = time.Time{}, time.Time{} }, "key.rotation_due key.unused"},
		"switched off":                {func(k *keys.Key) { k.Status, k.ExpiresAt = keys.Inactive, now().Add(day) }, ""},
		"replaced by another":         {func(k *keys.Key) { k.RotatedTo, k.CreatedAt = "key_0002", now().Add(-99*day) }, ""},
		"retired":                     {func(k *keys.Key) { k.RetiresAt, k.CreatedAt = now(), now().Add(-99*day) }, ""},
	} {
		var got []string
		for _, a := range alerts.OfKey(key(c.change), rules(), now()) {
			got = append(got, a.Type)
			if !a.Until.After(now()) {
				t.Errorf("%s: %s counts until %v", name, a.Type, a.Until)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if none := alerts.OfKey(key(c.change), &policy.Alerts{}, now()); len(none) != 0 {
			t.Errorf("%s: %v without any rule", name, none[0])
		}
	}
}

// Nobody is told again before the same span has passed once more, or something has changed.
func TestOfKeyAgain(t *testing.T) {
	old := func(days int) *alerts.Alert {
		return alerts.OfKey(key(func(k *keys.Key) { k.CreatedAt = now().Add(-time.Duration(days) * day) }), rules(), now())[0]
	}
	unused := func(days int) *alerts.Alert {
		last := now().Add(-70 * day)
		return alerts.OfKey(key(func(k *keys.Key) { k.CreatedAt, k.LastUsed = last.Add(-5*day), last }), &policy.Alerts{UnusedFor: 60 * day}, last.Add(time.Duration(days)*day))[0]
	}
	expiring := func(days int) *alerts.Alert {
		return alerts.OfKey(key(func(k *keys.Key) { k.ExpiresAt = now().Add(time.Duration(days) * day) }), rules(), now())[0]
	}
	for _, c := range []struct {
		a, b *alerts.Alert
		same bool
	}{
		{unused(60), unused(119), true}, {unused(119), unused(120), false}, {expiring(3), expiring(3), true}, {expiring(3), expiring(4), false},
	} {
		if (c.a.Marks[0] == c.b.Marks[0]) != c.same || (c.a.ID() == c.b.ID()) != c.same {
			t.Errorf("%v and %v", c.a.Marks, c.b.Marks)
		}
	}
	if first, second := old(90), old(180); first.Marks[0] != "key_0001/rotation/90/1" || second.Marks[0] != "key_0001/rotation/90/2" {
		t.Errorf("%v, %v", first.Marks, second.Marks)
	}
	if got, want := unused(61).Until, now().Add(-70*day).Add(120*day); !got.Equal(want) {
		t.Errorf("until %v, want %v", got, want)
	}
}

// The messages are those of the page.
func TestMessagesOfKeys(t *testing.T) {
	k := key(func(k *keys.Key) {
		k.CreatedAt, k.LastUsed, k.ExpiresAt = now().Add(-99*day), now().Add(-60*day), now().Add(day)
	})
	var got []string
	for _, a := range alerts.OfKey(k, rules(), now()) {
		got = append(got, string(a.Message()))
		if a.Headline() == a.Type || a.Headline() == "" {
			t.Errorf("%s has no headline", a.Type)
		}
	}
	const head = `{"type":"key.%s","timestamp":"2026-11-30T18:00:00Z","data":{"api":"jobs","team":"acme","key":"key_0001","plan":"free",%s}}`
	want := strings.Join([]string{
		fmt.Sprintf(head, "expiring", `"expires":"2026-12-01T18:00:00Z"`),
		fmt.Sprintf(head, "rotation_due", `"created":"2026-08-23T18:00:00Z","days":90`),
		fmt.Sprintf(head, "unused", `"created":"2026-08-23T18:00:00Z","last_used":"2026-10-01T18:00:00Z","days":60`),
	}, "\n")
	if strings.Join(got, "\n") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, "\n"), want)
	}
}
