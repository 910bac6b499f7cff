package ledger_test

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"tollgate/policy"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

func backends(t *testing.T, run func(t *testing.T, c redis.UniversalClient)) {
	t.Run("redis", func(t *testing.T) {
		run(t, redistest.Start(t, redistest.SocketOnly).Admin)
	})
	t.Run("embedded", func(t *testing.T) {
		c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { _ = c.Close() })
		run(t, c)
	})
}

func TestWholePath(t *testing.T) {
	backends(t, func(t *testing.T, c redis.UniversalClient) {
		set := policy.New(policy.Spec{Name: "jobs", Routes: map[string]*policy.Route{
			"submit": {Name: "submit", Cost: 5}, "job": {Name: "job", Cost: 1},
		}, Usage: policy.DefaultUsage()})
		counter := usage.NewCounter(0, set.Find)
		now := time.Date(2026, 11, 29, 21, 59, 0, 0, time.UTC)
		w := ledger.NewWriter(c, counter, func() time.Time { return now })
		k := keys.NewGrant(&keys.Key{ID: "key_one1", API: "jobs", Team: "red/blue", Name: "n", LimitID: "key_one1"})
		api, submit := set.Find("jobs", "submit")
		_, job := set.Find("jobs", "job")
		for range 3 {
			counter.Decided(api, k, submit, policy.Allowed, now)
			counter.Decided(api, k, job, policy.Allowed, now)
			counter.Decided(api, k, job, policy.RateLimited, now.Add(time.Hour))
			counter.Decided(api, nil, job, policy.UnknownKey, now)
			counter.Finished(&usage.Finished{API: "jobs", Route: "job", Key: "key_one1", Team: "red/blue", Start: now, Status: 200, BytesIn: 7, BytesOut: 9, Took: 2 * time.Second})
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, by := range usage.Bys() {
			for _, q := range []ledger.Question{{APIs: []string{"jobs"}, Key: "key_one1"}, {APIs: []string{"jobs"}}, {APIs: []string{"jobs"}, Team: "red/blue"}} {
				q.By, q.From, q.To = by, usage.HourOf(now)-3, usage.DayOf(now)
				r, err := ledger.NewReader(c).Ask(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				t.Log(by, q.Key, q.Team, r.Rows(""), r.Total)
			}
		}
		t.Log(c.HGetAll(t.Context(), "tg:v1:usage:{key_one1}:20261129").Val(), w.Stats(), counter.Stats())
	})
}
