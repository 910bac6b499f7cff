package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/envoy/envoytest"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
	"tollgate/policy/usage"
	"tollgate/policy/usage/ledger"
)

// usageCaller is a key, or what is presented in its place.
type usageCaller struct {
	id, secret string
	refused    string // why each of its requests is, to whatever route
	writes     bool   // it has the scope
	limited    bool   // some of its requests are refused by a limit
}

func usageCallers(t *testing.T, server *redistest.Server) []usageCaller {
	t.Helper()
	callers := []usageCaller{
		{id: "key_writer", writes: true}, {id: "key_reader"}, {id: "key_limited", writes: true, limited: true},
		{id: "key_expired", refused: "expired_key"}, {id: "key_inactive", refused: "inactive_key"},
		{secret: keys.Seal("jb_", "AKeyOfNobodyInThisTest00000"), refused: "unknown_key"}, {secret: "jb_malformed", refused: "malformed_credential"},
		{refused: "missing_credential"},
	}
	var entries []keyfile.Entry
	for i := range callers {
		c := &callers[i]
		if c.id == "" {
			continue
		}
		c.secret = keys.Seal("jb_", fmt.Sprintf("AKeyOfTheUsageTest%09d", i))
		k := keys.Key{ID: c.id, API: "pixelmagic", Name: "n", Plan: "free", LimitID: c.id, Scopes: []string{"read"}, Status: keys.Active, Version: 1, AnchorDay: 1, CreatedAt: time.Now()}
		if c.writes {
			k.Scopes = []string{"read", "submit"}
		}
		switch c.id {
		case "key_expired":
			k.ExpiresAt = time.Now().Add(-time.Hour)
		case "key_inactive":
			k.Status = keys.Inactive
		case "key_limited":
			k.Limits = []keys.Override{{Name: "month", Requests: 500}}
		}
		entries = append(entries, keyfile.Entry{Key: k, Secret: c.secret})
	}
	if _, err := admin.Seed(t.Context(), store.New(server.Admin), entries, keys.NewHasher(nil)); err != nil {
		t.Fatal(err)
	}
	return callers
}

// Requests of all kinds through a real Envoy to three servers, one of which is told to end in the
// middle: what is kept by key, route and reason is what the client has seen, and Envoy itself
// refuses nothing. make test-usage does it with 200,000.
func TestUsageThroughEnvoy(t *testing.T) {
	binary, err := envoytest.Find()
	tollgatetest.Require(t, "envoy", err, "no Envoy (make tools)")
	requests := 3000
	if _, err := fmt.Sscan(flag.Lookup("usage").Value.String(), &requests); err != nil {
		t.Fatal(err)
	}
	requests = cmp.Or(requests, 3000)
	o := outage{replicas: 3, balance: "ROUND_ROBIN", patient: true}
	server := redistest.Start(t, redistest.SocketOnly)
	callers := usageCallers(t, server)
	policy := strings.NewReplacer("api: jobs", "api: pixelmagic", "requests: 60,", "requests: 100000000,", "requests: 1000,", "requests: 100000000,").
		Replace(string(readFile(t, "../../testdata/small.yaml")))
	edge, replicas := o.startOn(t, binary, server, []byte(policy))
	seen := &usageTally{rows: map[string]uint64{}, client: &http.Client{Timeout: limit, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	defer seen.client.CloseIdleConnections()
	var work sync.WaitGroup
	due, half := make(chan int), make(chan struct{})
	for w := range 32 {
		work.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 5))
			for range due {
				seen.ask(t, edge.Addr(), &callers[random.IntN(len(callers))], random.IntN(5))
			}
		})
	}
	work.Go(func() {
		<-half
		replicas[0].terminate(t)
	})
	began := time.Now()
	for i := range requests {
		if i == requests/2 {
			close(half)
		}
		due <- i
	}
	close(due)
	work.Wait()
	t.Logf("%d requests in %s", requests, time.Since(began).Round(time.Second))
	for _, r := range replicas[1:] {
		r.terminate(t)
	}
	seen.compare(t, server, requests)
	if chart := flag.Lookup("chart").Value.String(); chart != "" {
		code, out, stderr := command(t, "usage", "--store", "unix://"+server.Socket, "--api", "pixelmagic", "--since", "1d", "--chart", chart)
		t.Logf("%d\n%s%s", code, out, stderr)
	}
}

// usageTally is what a client has seen, in the words of reports.
type usageTally struct {
	client *http.Client
	mu     sync.Mutex
	rows   map[string]uint64
}

func (y *usageTally) ask(t *testing.T, address string, c *usageCaller, kind int) {
	path := []string{"GET /v1/jobs/17", "GET /v1/jobs/18", "POST /v1/jobs", "GET /health", "GET /nowhere"}[kind]
	route := []string{"job", "job", "submit", "health", ""}[kind]
	method, target, _ := strings.Cut(path, " ")
	req, err := http.NewRequest(method, "http://"+address+target, nil)
	if err != nil {
		t.Error(err)
		return
	}
	req.Host = "api.pixelmagicai.com"
	if c.secret != "" {
		req.Header.Set("Authorization", "Bearer "+c.secret)
	}
	res, err := y.client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	want, status := "allowed", 200
	switch {
	case route == "health":
		c = &usageCaller{}
	case c.refused != "":
		want, status = c.refused, 401
	case route == "":
		want, status = "route_denied", 403
	case route == "submit" && !c.writes:
		want, status = "scope_denied", 403
	case c.limited && res.StatusCode == 429:
		want, status = "quota_exceeded", 429
	}
	if res.StatusCode != status {
		t.Errorf("%s of %s: %d %.100q, want %d", path, c.id, res.StatusCode, body, status)
	}
	y.count(c.id, route, want)
}

func (y *usageTally) count(key, route, reason string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if route == "" || key == "" && reason != "allowed" {
		route = usage.NoRoute
	}
	of := []string{"api"}
	if key != "" {
		of = append(of, key)
	}
	for _, of := range of {
		if reason != "allowed" {
			y.rows[of+" "+route+" denied"]++
			y.rows[of+" "+reason]++
			continue
		}
		y.rows[of+" "+route+" allowed"]++
		y.rows[of+" "+route+" cost"]++
		if route == "submit" {
			y.rows[of+" "+route+" cost"] += 4
		}
	}
}

func (y *usageTally) compare(t *testing.T, server *redistest.Server, requests int) {
	t.Helper()
	kept, sum := map[string]uint64{}, uint64(0)
	for of, q := range map[string]ledger.Question{
		"api": {}, "key_writer": {Key: "key_writer"}, "key_reader": {Key: "key_reader"}, "key_limited": {Key: "key_limited"},
		"key_expired": {Key: "key_expired"}, "key_inactive": {Key: "key_inactive"},
	} {
		for _, q.By = range []usage.By{usage.ByRoute, usage.ByReason} {
			q.APIs, q.From, q.To = []string{"pixelmagic"}, usage.DayOf(time.Now()).Hour(0)-24, usage.DayOf(time.Now())
			report, err := ledger.NewReader(server.Admin).Ask(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range report.Rows("") {
				if q.By == usage.ByReason {
					kept[of+" "+row.Name] = row.Denied
					continue
				}
				for what, n := range map[string]uint64{"allowed": row.Allowed, "denied": row.Denied, "cost": row.Cost} {
					if n > 0 {
						kept[of+" "+row.Name+" "+what] = n
					}
				}
				if of == "api" {
					sum += row.Allowed + row.Denied
				}
			}
		}
	}
	if sum != uint64(requests) {
		t.Errorf("%d requests are kept, %d were made", sum, requests)
	}
	if !maps.Equal(kept, y.rows) {
		t.Errorf("kept\n%v, seen\n%v", kept, y.rows)
	}
}
