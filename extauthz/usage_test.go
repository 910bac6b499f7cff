package extauthz_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// usagePolicy has scopes, costs and a limit that is soon spent.
func usagePolicy() []string {
	return []string{
		"routes:", "scopes: [{name: write}]\nroutes:\n- {name: made, match: POST /items, scope: write, cost: 3}",
		"- {name: basic, limits: [{name: minute, requests: 5, per: minute}]}",
		"- {name: basic, limits: [{name: day, requests: 40, per: day}]}\n- {name: big, limits: [{name: day, requests: 1000000, per: day}]}",
	}
}

// usageKeys are six keys of two teams: two that may do all, and one each that may not write, is
// expired, is bound to another address, or has a limit that is soon spent.
func usageKeys() (entries []keyfile.Entry) {
	for i := range 6 {
		k := keys.Key{
			ID: fmt.Sprintf("key_use%d", i), API: "small", Team: []string{"red", "blue"}[i%2], Name: "name", Plan: "big", LimitID: fmt.Sprintf("key_use%d", i),
			Scopes: []string{"write"}, Status: keys.Active, Version: 1, AnchorDay: 1, CreatedAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
		}
		switch i {
		case 2:
			k.Scopes = nil
		case 3:
			k.ExpiresAt = time.Date(2025, 2, 1, 0, 0, 0, 0, time.UTC)
		case 4:
			k.IPs = append(k.IPs, netip.MustParsePrefix("203.0.113.0/24"))
		case 5:
			k.Plan = "basic"
		}
		entries = append(entries, keyfile.Entry{Key: k, Secret: keys.Seal("sm_", fmt.Sprintf("AKeyOfTheUsageTest%09d", i))})
	}
	return entries
}

// usageReplica is a server that counts.
type usageReplica struct {
	*extauthztest.Stack
	client authv3.AuthorizationClient
	end    context.CancelFunc
	ended  chan error // what was not written
}

// Three servers on one store, one of which ends in the middle: by key, route, reason and API, what
// is kept is what the callers were told, and nothing else.
func TestUsageIsExact(t *testing.T) {
	for _, backend := range extauthztest.Backends() {
		t.Run(backend, func(t *testing.T) {
			entries, redis := usageKeys(), extauthztest.NewRedis(t, backend)
			var replicas []*usageReplica
			for range 3 {
				var counter *usage.Counter
				r := &usageReplica{Stack: extauthztest.NewStack(t, func(c *extauthz.Config) {
					counter = usage.NewCounter(0, c.Policies.FindRoute)
					c.Counts = counter
				}, extauthztest.SmallFile(usagePolicy()...)), ended: make(chan error, 100)}
				r.Use(t, redis, entries)
				r.client = authv3.NewAuthorizationClient(r.Dial(t))
				ctx, end := context.WithCancel(t.Context())
				r.end = end
				writer := ledger.NewWriter(redis, counter, r.Clock.Now)
				go func() {
					defer close(r.ended)
					writer.Run(ctx, func(err error) { r.ended <- err })
				}()
				replicas = append(replicas, r)
			}
			told := &toldTally{rows: map[string]uint64{}}
			var work sync.WaitGroup
			const workers, each = 12, 150
			for w := range workers {
				work.Go(func() {
					random := rand.New(rand.NewPCG(uint64(w), 3))
					for i := range each {
						at := random.IntN(3)
						if at == 0 && i > each/2 { // this one is told to end
							at = 1
						}
						told.ask(t, replicas[at].client, random, entries)
					}
				})
			}
			work.Wait()
			for _, r := range replicas {
				r.GRPC.Shutdown(extauthztest.Within(t))
				r.end()
				for err := range r.ended {
					t.Error(err)
				}
			}
			told.compare(t, ledger.NewReader(redis), replicas[0].Clock.Now())
		})
	}
}

// toldTally is what callers were told, in the words of reports.
type toldTally struct {
	mu   sync.Mutex
	rows map[string]uint64
}

func (y *toldTally) ask(t *testing.T, client authv3.AuthorizationClient, random *rand.Rand, entries []keyfile.Entry) {
	method, target := "GET", "/items/17"
	switch random.IntN(6) {
	case 0:
		method, target = "POST", "/items"
	case 1:
		target = "/open"
	case 2:
		target = "/nowhere"
	}
	secret := entries[random.IntN(len(entries))].Secret
	switch random.IntN(10) {
	case 0:
		secret = keys.Seal("sm_", fmt.Sprintf("AKeyOfNobodyAtAll%010d", random.IntN(5)))
	case 1:
		secret = secret[:len(secret)-1] + "~"
	}
	request := extauthztest.Get(target, map[string]string{"authorization": "Bearer " + secret})
	request.GetAttributes().GetRequest().GetHttp().Method = method
	resp, err := client.Check(extauthztest.Within(t), request)
	if err != nil {
		t.Error(err)
		return
	}
	y.told(metadata(resp))
}

func (y *toldTally) told(meta map[string]string) {
	known, route := meta["team"] != "", meta["route"]
	count := func(row string, n uint64) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.rows[row] += n
	}
	cost := map[string]uint64{"made": 3}[route]
	if cost == 0 {
		cost = 1
	}
	if meta["reason"] != "allowed" && (!known || route == "") {
		route = usage.NoRoute
	}
	of := []string{"api"}
	if known {
		of = append(of, meta["key_id"], meta["team"])
		count("by key "+meta["key_id"], 1)
	}
	for _, of := range of {
		if meta["reason"] == "allowed" {
			count(of+" "+route+" allowed", 1)
			count(of+" "+route+" cost", cost)
		} else {
			count(of+" "+route+" denied", 1)
			count(of+" reason "+meta["reason"], 1)
		}
	}
}

func (y *toldTally) compare(t *testing.T, reader *ledger.Reader, now time.Time) {
	t.Helper()
	kept := map[string]uint64{}
	count := func(row string, n uint64) {
		if n > 0 {
			kept[row] += n
		}
	}
	ask := func(q ledger.Question) []usage.Row {
		q.APIs, q.From, q.To = []string{"small"}, usage.DayOf(now).Hour(0)-24, usage.DayOf(now)
		report, err := reader.Ask(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return report.Rows("")
	}
	subjects := map[string]ledger.Question{"api": {}, "red": {Team: "red"}, "blue": {Team: "blue"}}
	for _, row := range ask(ledger.Question{By: usage.ByKey}) {
		subjects[row.Name] = ledger.Question{Key: row.Name}
		count("by key "+row.Name, row.Allowed+row.Denied)
	}
	for of, q := range subjects {
		q.By = usage.ByRoute
		for _, row := range ask(q) {
			count(of+" "+row.Name+" allowed", row.Allowed)
			count(of+" "+row.Name+" cost", row.Cost)
			count(of+" "+row.Name+" denied", row.Denied)
		}
		q.By = usage.ByReason
		for _, row := range ask(q) {
			count(of+" reason "+row.Name, row.Denied)
		}
	}
	if len(kept) < 60 {
		t.Errorf("only %d numbers are compared", len(kept))
	}
	if !maps.Equal(kept, y.rows) {
		for row, n := range y.rows {
			if kept[row] != n {
				t.Errorf("%s: %d kept, %d told", row, kept[row], n)
			}
		}
		for row, n := range kept {
			if _, is := y.rows[row]; !is {
				t.Errorf("%s: %d kept, none told", row, n)
			}
		}
	}
}
