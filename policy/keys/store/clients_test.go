package store

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"

	"github.com/redis/go-redis/v9"
)

func clientOf(id string, d byte) *keys.Key {
	k := keys.NewClient("pixelbyte", keys.Client{Issuer: "https://as.example.com", ID: id})
	k.Digest, k.CreatedAt = keys.Digest{d}, keystest.Noon()
	return k
}

// The record of a client is found and kept as a key's is, and no list of keys has it.
func testClients(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	key, web, app := named("aaaa", 1), clientOf("web", 2), clientOf("app", 3)
	for _, k := range []*keys.Key{key, web, app} {
		if err := s.Create(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(ctx, web); !errors.Is(err, ErrExists) {
		t.Errorf("the same again: %v", err)
	}
	for _, k := range []*keys.Key{web, app} {
		if got := keystest.Must[*keys.Key](t)(s.Lookup(ctx, k.Digest)); !reflect.DeepEqual(got, k) {
			t.Errorf("Lookup = %+v", got)
		}
	}
	next := web.Clone()
	next.Status, next.Plan = keys.Inactive, "pro"
	web = keystest.Must[*keys.Key](t)(s.Write(ctx, web, next))
	if got := keystest.Must[*keys.Key](t)(s.Get(ctx, web.ID)); !reflect.DeepEqual(got, web) || got.Version != 2 {
		t.Errorf("Get = %+v", got)
	}
	ids := func(f Filter) (all []string) {
		for cursor, more := "", true; more; more = cursor != "" {
			page, next, err := s.List(ctx, f, cursor, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range page {
				all = append(all, k.ID)
			}
			cursor = next
		}
		return all
	}
	both := []string{web.ID, app.ID}
	slices.Sort(both)
	for _, test := range []struct {
		filter Filter
		want   []string
	}{
		{Filter{}, []string{key.ID}},
		{Filter{API: "pixelbyte"}, []string{key.ID}},
		{Filter{Clients: true}, both},
		{Filter{Clients: true, API: "pixelbyte"}, both},
		{Filter{Clients: true, Status: []keys.Status{keys.Inactive}}, []string{web.ID}},
		{Filter{Clients: true, API: "other"}, nil},
	} {
		if got := ids(test.filter); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, want %v", test.filter, got, test.want)
		}
	}
	keystest.Consistent(t, c)

	// Repair knows both kinds apart.
	repaired(t, s, "", time.Minute, RepairReport{Checked: 3})
	c.ZRem(ctx, clientsKey("pixelbyte"), web.ID)
	c.ZAdd(ctx, clientsKey("pixelbyte"), redis.Z{Member: key.ID}, redis.Z{Member: "key_none"})
	c.ZAdd(ctx, indexKey("pixelbyte", ""), redis.Z{Member: app.ID})
	c.Del(ctx, secretKey(app.Digest))
	repaired(t, s, "pixelbyte", time.Minute, RepairReport{Checked: 3, Indexed: 1, Unindexed: 3, Linked: 1})
	keystest.Consistent(t, c)
	repaired(t, s, "", time.Minute, RepairReport{Checked: 3})
}

// What is not the record of the client that it names is no record.
func TestRecordsOfOtherClients(t *testing.T) {
	c := keystest.NewEmbedded(t)
	s, k := New(c), clientOf("web", 2)
	good := string(keystest.Must[[]byte](t)(EncodeRecord(k)))
	if got := keystest.Must[*keys.Key](t)(decodeRecord([]byte(good))); !reflect.DeepEqual(got, k) {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{
		`"client":{}`, `"client":{"issuer":"https://as.example.com","id":"web2"}`, `"client":{"issuer":"","id":"web"}`,
		`"client":{"issuer":"https://as.example.com","id":"web","id":"web"}`, `"client":{"issuer":"https://as.example.com","id":"web","x":1}`, `"client":"web"`,
	} {
		text := strings.Replace(good, `"client":{"issuer":"https://as.example.com","id":"web"}`, bad, 1)
		if _, err := decodeRecord([]byte(text)); err == nil || text == good {
			t.Errorf("%s is taken", bad)
		}
	}
	var corrupt *keys.CorruptError
	c.Set(t.Context(), recordKey(k.ID), strings.Replace(good, `"status":"active"`, `"status":"revoked"`, 1), 0)
	if _, err := s.Get(t.Context(), k.ID); !errors.As(err, &corrupt) {
		t.Errorf("a revoked client: %v", err)
	}
}
