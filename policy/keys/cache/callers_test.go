package cache

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

// guess looks up a secret that nobody has, and reports whether the store was asked.
func guess(t *testing.T, c *Cache, n int, from keys.Caller) (asked bool) {
	t.Helper()
	_, err := c.LookupFor(t.Context(), digestOf(n), from)
	if !errors.Is(err, keys.ErrUnknown) && !errors.Is(err, keys.ErrBusy) {
		t.Fatal(err)
	}
	return errors.Is(err, keys.ErrUnknown)
}

func fromAddress(api, address string) keys.Caller {
	return keys.Caller{API: api, Address: netip.MustParseAddr(address)}
}

// Whoever guesses keys, be it from one address or from many, refuses no customer's first look-up.
func TestScanRefusesNoCustomer(t *testing.T) {
	const perSecond, seconds, guesses, customers = 200, 5, 2_000, 50 // a second
	v6 := func(n int) string { return fmt.Sprintf("2001:db8:%x::%x", n, n) }
	v4 := func(n int) string { return fmt.Sprintf("10.1.%d.%d", n/250, n%250+1) }
	for name, scan := range map[string]struct {
		from func(n int) keys.Caller
		most int // asked in vain in all
	}{
		"one address":       {func(int) keys.Caller { return fromAddress("a", "203.0.113.9") }, perSecond * (seconds + 1)},
		"one network":       {func(n int) keys.Caller { return fromAddress("a", fmt.Sprintf("2001:db8:9::%x", n+1)) }, perSecond * (seconds + 1)},
		"hundred addresses": {func(n int) keys.Caller { return fromAddress("a", v4(n%100)) }, (100*perSecond/ownPart + perSecond) * (seconds + 1)},
		"many networks":     {func(n int) keys.Caller { return fromAddress("a", v6(n%1_000)) }, guesses * seconds},
		"without address":   {func(int) keys.Caller { return keys.Caller{API: "a"} }, perSecond * (seconds + 1)},
	} {
		t.Run(name, func(t *testing.T) {
			client := keystest.NewEmbedded(t)
			c, clock := newTestCache(client, func(o *Options) { o.UnknownLookups, o.TTL = perSecond, time.Hour })
			asked, refused := 0, 0
			for n := range seconds * guesses {
				clock.Advance(time.Second / guesses)
				if guess(t, c, n, scan.from(n)) {
					asked++
				}
				if n%(guesses/customers) != 0 {
					continue
				}
				k := keystest.Sample(func(k *keys.Key) { k.ID, k.Digest = fmt.Sprintf("key_scan%d", n), digestOf(-1-n) })
				k.LimitID = k.ID
				create(t, client, k)
				from := fromAddress("a", v4(5_000+n%60))
				if n%3 == 0 {
					from = fromAddress("a", v6(5_000+n%60))
				}
				if _, err := c.LookupFor(t.Context(), k.Digest, from); err != nil {
					refused++
				}
			}
			if refused > 0 {
				t.Errorf("%d of %d first look-ups of customers refused", refused, seconds*customers)
			}
			if asked > scan.most {
				t.Errorf("%d secrets asked about in vain, want at most %d", asked, scan.most)
			}
			s := c.Stats()
			if s.Busy != uint64(seconds*guesses-asked) || s.Misses != uint64(asked+seconds*customers) {
				t.Errorf("%d asked in vain: %+v", asked, s)
			}
		})
	}
}

// Callers of one address are told apart by the API, and so are those without an address.
func TestCallersAreToldApart(t *testing.T) {
	c := newCallers(100)
	for range 200 {
		c.vain(fromAddress("a", "203.0.113.9"), 0)
		c.vain(fromAddress("a", "2001:db8:0:1::1"), 0)
		c.vain(keys.Caller{API: "a"}, 0)
	}
	for _, test := range []struct {
		from keys.Caller
		may  bool
	}{
		{fromAddress("a", "203.0.113.9"), false},
		{fromAddress("a", "::ffff:203.0.113.9"), false},
		{fromAddress("a", "2001:db8:0:1:ffff::2%eth0"), false},
		{keys.Caller{API: "a"}, false},
		{fromAddress("b", "203.0.113.9"), true},
		{fromAddress("a", "203.0.113.8"), true},
		{fromAddress("a", "2001:db8:0:2::1"), true},
		{fromAddress("b", "2001:db8:0:1::1"), true},
		{keys.Caller{API: "b"}, true},
	} {
		if got := c.may(test.from, 0); got != test.may {
			t.Errorf("%v: %t", test.from, got)
		}
		if !c.may(test.from, int64(2*time.Second)) {
			t.Errorf("%v: what was used up does not come back", test.from)
		}
	}
	if size := unsafe.Sizeof(*c); size > 1<<20 {
		t.Errorf("%d bytes", size)
	}
}

// Guesses from ever new addresses are bounded, too.
func TestLookUpsInVainHaveACeiling(t *testing.T) {
	const perSecond = 20
	c, asked := newCallers(perSecond), 0
	for n := range 100_000 {
		now := int64(time.Second) * int64(n) / 10_000
		from := fromAddress("a", fmt.Sprintf("2001:db8:%x:%x::1", n>>8, n&255))
		if c.may(from, now) {
			c.vain(from, now)
			asked++
		}
	}
	if most := ceiling * perSecond * (10 + 1); asked > most || asked < most/2 {
		t.Errorf("%d asked in 10 s, want about %d", asked, most)
	}
}

// A key that was just changed is a customer's, whoever guesses beside him.
func TestChangedKeyIsNotRefused(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, _ := newTestCache(client, func(o *Options) { o.UnknownLookups = 1 })
	k := keystest.Sample()
	create(t, client, k)
	status(t, c, k.Digest)
	for n := range 10 {
		guess(t, c, n, keys.Caller{})
	}
	change(t, client, revoked(k), false)
	for range 2 {
		c.apply(changeOf(k, time.Now()))
		if got := status(t, c, k.Digest); got != keys.Revoked {
			t.Error(got)
		}
	}
	if s := c.Stats(); s.Keys != 1 || s.Unknown != 1 {
		t.Errorf("%+v", s)
	}
}

// While peppers are changed, a key is first looked up by a digest that is not its own.
func TestDigestsOfOnePresentedSecretCountOnce(t *testing.T) {
	client := keystest.NewEmbedded(t)
	c, _ := newTestCache(client, func(o *Options) { o.UnknownLookups = 2 })
	from := fromAddress("a", "203.0.113.9")
	from.More = true
	for n := range 100 {
		if !guess(t, c, n, from) {
			t.Fatalf("refused after %d that were not the last of their secrets", n)
		}
	}
	from.More = false
	for n, want := range []bool{true, true, false} {
		if got := guess(t, c, 100+n, from); got != want {
			t.Errorf("%d: %t", n, got)
		}
	}
}
