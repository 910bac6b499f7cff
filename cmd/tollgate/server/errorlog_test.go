package server

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// With --error-log=false there is none, which keeps nothing and does nothing.
func TestNoErrorLog(t *testing.T) {
	e := (&service{}).newErrorLog(&options{})
	if e != nil || e.sampled() != nil {
		t.Errorf("%v", e)
	}
	e.run(t.Context()) // ends at once
}

// An access log is believed about keys that there are.
func TestAPIsOfKeys(t *testing.T) {
	server := miniredis.RunT(t)
	c := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DialTimeout: time.Second})
	defer c.Close()
	v := &service{records: store.New(c)}
	k := keys.Key{ID: "key_0001", API: "jobs", Name: "n", LimitID: "key_0001", Status: keys.Active, AnchorDay: 1, Version: 1, Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.NewHasher([]byte("p")).Digest("x")}
	if err := v.records.Create(t.Context(), &k); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "tg:v1:key:{key_0002}", "?", 0).Err(); err != nil {
		t.Fatal(err)
	}
	got, err := v.apisOf(t.Context(), []string{"key_0002", "key_0001", "key_none"})
	if err != nil || !slices.Equal(got, []string{"", "jobs", ""}) {
		t.Errorf("%q, %v", got, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := v.apisOf(ended, []string{"key_0001"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
