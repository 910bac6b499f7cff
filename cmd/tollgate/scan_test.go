package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/policy/keys"
)

const (
	scanMost     = 20_000 // guesses a second
	scanCallers  = 64     // connections' worth of guesses under way
	scanFirsts   = 10 * time.Second
	scanFirstGap = 4 * time.Millisecond // between the first look-ups of two keys

	// A server looks 2,100 guesses of one caller up each second, and as many at once in
	// the first. A machine that makes scanSure sees some refused before it has made
	// scanBegun; a slower one, such as one with the race detector, need not.
	scanSure  = 5_000 // guesses a second
	scanBegun = 8_000
	scanSlow  = 10 * time.Second // is waited for scanBegun
)

// checkFrom is a check of one of pixelbyte's keys for a client with this address.
func checkFrom(address, secret string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Host: "api.pixelbyte.io", Method: "GET", Path: "/v1/models",
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				{Key: "authorization", RawValue: []byte("Bearer " + secret)},
				{Key: "x-envoy-external-address", RawValue: []byte(address)},
			}},
		}},
	}}
}

// scan guesses keys from one address, so many a second, 0 for as many as there can be, until ctx
// ends, and counts them.
func scan(ctx context.Context, client authv3.AuthorizationClient, perSecond float64, guesses *atomic.Int64) {
	var callers sync.WaitGroup
	due := make(chan struct{}, scanMost)
	callers.Go(func() { pace(ctx, due, perSecond) })
	for range scanCallers {
		callers.Go(func() {
			for range due {
				guesses.Add(1)
				if _, err := client.Check(context.WithoutCancel(ctx), checkFrom("203.0.113.9", keys.NewSecret("pb_"))); err != nil {
					return
				}
			}
		})
	}
	callers.Wait()
}

// pace says when a guess is due, until ctx ends.
func pace(ctx context.Context, due chan<- struct{}, perSecond float64) {
	defer close(due)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began, said := time.Now(), 0
	for {
		for n := time.Since(began).Seconds() * perSecond; perSecond == 0 || float64(said) < n; said++ {
			select {
			case due <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// firsts uses keys for the first time, from some addresses, and returns how many were refused.
func firsts(t *testing.T, client authv3.AuthorizationClient, secrets []string, gap time.Duration) (refused int64) {
	var wait sync.WaitGroup
	var denied atomic.Int64
	tick := time.NewTicker(gap)
	defer tick.Stop()
	for i, secret := range secrets {
		<-tick.C
		wait.Go(func() {
			resp, err := client.Check(t.Context(), checkFrom(fmt.Sprintf("198.51.100.%d", i%60+1), secret))
			if err != nil || resp.GetOkResponse() == nil {
				denied.Add(1)
			}
		})
	}
	wait.Wait()
	return denied.Load()
}

// metric returns a value of a server's metrics.
func (f *fleet) metric(t *testing.T, name string) int {
	t.Helper()
	response, err := http.Get("http://" + f.http[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindSubmatch(body)
	if found == nil {
		return 0
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// While somebody guesses keys, those of customers are found that were never asked about. make
// test-scan does that with 20,000 guesses a second, or half of what the machine can do, and the
// deadline that servers have; else it is as many as there can be in a moment, and none may be
// refused.
func TestFirstLookUpsDuringAScan(t *testing.T) {
	full := os.Getenv("TOLLGATE_SCAN") != ""
	args, gap, n := []string{"--deadline", "20s"}, scanFirstGap/4, 300
	if full {
		args, gap, n = []string{"--deadline", "100ms"}, scanFirstGap, int(scanFirsts/scanFirstGap)
	}
	f := startServers(t, 1, append(args, "--log-decisions", "denied", "--cache-ttl", "1m")...)
	client := f.replicas[0]
	_, secrets := f.create(t, n)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	rate := 0.0
	if full {
		short, end := context.WithTimeout(ctx, 3*time.Second)
		var possible atomic.Int64
		scan(short, client, 0, &possible)
		rate = min(float64(possible.Load())/3/2, scanMost)
		end()
	}
	var guesses atomic.Int64
	var scanning sync.WaitGroup
	began := time.Now()
	scanning.Go(func() { scan(ctx, client, rate, &guesses) })
	eventually(t, "guesses are refused, or too few for that", func() bool {
		return f.metric(t, `tollgate_key_lookups_total{outcome="busy"}`) > 0 || guesses.Load() > scanBegun || time.Since(began) > scanSlow
	})
	perSecond := float64(guesses.Load()) / time.Since(began).Seconds()
	refused := firsts(t, client, secrets, gap)
	stop()
	scanning.Wait()
	t.Logf("%d of %d first look-ups refused beside %.0f guesses/s", refused, n, perSecond)
	if most := int64(n / 100); refused > 0 && (!full || refused > most) {
		t.Errorf("%d of %d first look-ups refused", refused, n)
	}
	busy := f.metric(t, `tollgate_key_lookups_total{outcome="busy"}`)
	reason := f.metric(t, `tollgate_decisions_total{api="pixelbyte",plan="",reason="lookup_refused",route="list_models"}`)
	if busy == 0 && (full || perSecond > scanSure) || busy != reason {
		t.Errorf("%d look-ups refused, %d decisions say so", busy, reason)
	}
	for line := range strings.Lines(f.log.String()) {
		refusal := strings.Contains(line, "lookup_refused")
		if refusal && !strings.Contains(line, `msg="more denied" reason=lookup_refused not_logged=`) || !refusal && strings.Contains(line, "status=500") && !full {
			t.Error(line)
		}
	}
}
