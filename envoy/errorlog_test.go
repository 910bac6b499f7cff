package envoy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/connect/redistest"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
)

// refusing is an API that has every reason to refuse a request.
func refusing() []string {
	return []string{
		"hosts: [small.test]\n", "",
		"key_format: {prefixes: [sm_], checksum: required}", "environments:\n- {name: live, prefix: sm_live_, hosts: [small.test]}\n- {name: test, prefix: sm_test_, hosts: [test.small.test]}",
		"routes:", "scopes: [{name: write}]\nroutes:\n- {name: made, match: POST /items, scope: write}",
		"- {name: basic, limits: [{name: minute, requests: 5, per: minute}]}", `- {name: basic, limits: []}
- {name: slow, limits: [{name: day, requests: 0, per: day}]}
- {name: small, limits: [{name: month, requests: 0, per: month, quota: true}]}
- {name: single, concurrent: 1, limits: []}`,
		"rate_limited, quota_exceeded]", "rate_limited, quota_exceeded, concurrency_exceeded]",
	}
}

// refusedKeys are keys that are named for what they are refused as.
func refusedKeys() (entries []keyfile.Entry, secrets map[string]string) {
	secrets = map[string]string{"unknown": keys.Seal("sm_live_", "AKeyOfNobodyInThisTest00000")}
	for name, change := range map[string]func(*keys.Key){
		"good":     func(*keys.Key) {},
		"revoked":  func(k *keys.Key) { k.Status = keys.Revoked },
		"inactive": func(k *keys.Key) { k.Status = keys.Inactive },
		"expired":  func(k *keys.Key) { k.ExpiresAt = time.Now().Add(-time.Hour) },
		"address":  func(k *keys.Key) { k.IPs = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} },
		"slow":     func(k *keys.Key) { k.Plan = "slow" },
		"small":    func(k *keys.Key) { k.Plan = "small" },
		"single":   func(k *keys.Key) { k.Plan = "single" },
		"corrupt":  func(k *keys.Key) { k.Plan = "gone" },
		"test":     func(k *keys.Key) { k.Environment = "test" },
	} {
		k := keys.Key{
			ID: "key_" + name, API: "small", Team: "team_s", Name: name, Plan: "basic", Environment: "live",
			Status: keys.Active, Version: 1, LimitID: "key_" + name, AnchorDay: 1, CreatedAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
		}
		change(&k)
		secrets[name] = keys.Seal("sm_"+k.Environment+"_", "AKeyThatIs"+name+strings.Repeat("0", 17-len(name)))
		entries = append(entries, keyfile.Entry{Key: k, Secret: secrets[name]})
	}
	return entries, secrets
}

// kept is a journal on a Redis of its own.
type kept struct {
	log    *errorlog.Log
	redis  *redistest.Server
	writer *journal.Writer
}

// keep has the stack keep errors of the small API, whose keys are those of refusedKeys.
func (k *kept) keep(t *testing.T) func(*extauthz.Config) {
	return func(c *extauthz.Config) {
		k.log, k.redis = errorlog.New(c.Policies.FindRoute, time.Now), redistest.Start(t, redistest.SocketOnly)
		k.writer = journal.NewWriter(k.redis.Admin, k.log, func(_ context.Context, ids []string) ([]string, error) {
			apis := make([]string, len(ids))
			for i := range ids {
				apis[i] = "small"
			}
			return apis, nil
		}, journal.Options{})
		c.Errors = k.log
	}
}

// everything is all that a Redis holds.
func everything(t *testing.T, c redis.UniversalClient) string {
	t.Helper()
	var all strings.Builder
	for _, name := range c.Keys(t.Context(), "*").Val() {
		all.WriteString(name + "\n" + c.Dump(t.Context(), name).Val() + "\n")
		for _, text := range c.LRange(t.Context(), name, 0, -1).Val() { // what DUMP may compress
			all.WriteString(text + "\n")
		}
		for field, text := range c.HGetAll(t.Context(), name).Val() {
			all.WriteString(field + " " + text + "\n")
		}
	}
	return all.String()
}

// A refusal of each kind, and an answer of the application with 5xx, is told with its route,
// reason, status and ids; nothing of a request's path, query or key is in Redis.
func TestEnvoyErrorLog(t *testing.T) {
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			log, errs := &observed{}, &kept{}
			app := &application{make(chan bool, 1), make(chan bool)}
			upstream := httptest.NewServer(app)
			defer upstream.Close()
			s := extauthztest.NewStack(t, func(c *extauthz.Config) {
				c.Observer = log
				errs.keep(t)(c)
			}, extauthztest.SmallFile(refusing()...))
			entries, secrets := refusedKeys()
			store := redistest.Start(t, redistest.SocketOnly)
			s.Use(t, store.Admin, entries)
			e := startEnvoyTo(t, upstream.Listener.Addr().String(), version, logging(t), s.Addr, s)
			const query = "?q=HUNTER-IN-THE-QUERY"
			request := func(method, target, key string) *envoytest.Request {
				r := &envoytest.Request{Method: method, Target: target, Host: "small.test"}
				if key != "" {
					r.Headers = [][2]string{{"authorization", "Bearer " + secrets[key]}}
				}
				return r
			}
			held := make(chan error, 1)
			go func() {
				_, err := request("GET", "/items/slow", "single").SendH1(t.Context(), e.envoy.Addr(), true)
				held <- err
			}()
			<-app.came

			handle := s.Hasher.Handle
			for _, c := range []struct {
				method, target, key string
				code                int
				want                errorlog.Entry
			}{
				{"GET", "/items/1" + query, "", 401, errorlog.Entry{Reason: "missing_credential", Route: "item"}},
				{"GET", "/items/1?api_key=HUNTER-IN-THE-QUERY", "good", 401, errorlog.Entry{Reason: "malformed_credential", Route: "item"}},
				{"GET", "/items/1" + query, "unknown", 401, errorlog.Entry{Reason: "unknown_key", Route: "item", Handle: handle(secrets["unknown"])}},
				{"GET", "/items/1" + query, "revoked", 401, errorlog.Entry{Reason: "revoked_key", Route: "item", Handle: handle(secrets["revoked"])}},
				{"GET", "/items/1" + query, "test", 401, errorlog.Entry{Reason: "wrong_environment", Route: "item", Handle: handle(secrets["test"])}},
				{"GET", "/items/1" + query, "inactive", 401, errorlog.Entry{Reason: "inactive_key", Route: "item", Key: "key_inactive"}},
				{"GET", "/items/1" + query, "expired", 401, errorlog.Entry{Reason: "expired_key", Route: "item", Key: "key_expired"}},
				{"GET", "/items/1" + query, "address", 403, errorlog.Entry{Reason: "address_denied", Route: "item", Key: "key_address"}},
				{"POST", "/items" + query, "good", 403, errorlog.Entry{Reason: "scope_denied", Route: "made", Key: "key_good"}},
				{"GET", "/HUNTER-IN-THE-PATH" + query, "good", 403, errorlog.Entry{Reason: "route_denied", Key: "key_good"}},
				{"GET", "/items/1" + query, "slow", 429, errorlog.Entry{Reason: "rate_limited", Route: "item", Key: "key_slow"}},
				{"GET", "/items/1" + query, "small", 429, errorlog.Entry{Reason: "quota_exceeded", Route: "item", Key: "key_small"}},
				{"GET", "/items/1" + query, "single", 429, errorlog.Entry{Reason: "concurrency_exceeded", Route: "item", Key: "key_single"}},
				{"GET", "/items/1" + query, "corrupt", 500, errorlog.Entry{Reason: "corrupt_key", Route: "item", Key: "key_corrupt"}},
				{"POST", "/items/broken" + query, "good", 503, errorlog.Entry{Reason: errorlog.Upstream, Route: "items", Key: "key_good"}},
			} {
				resp := e.send(t, request(c.method, c.target, c.key), "h1")
				if resp.Status != c.code {
					t.Errorf("%s: %d, want %d", c.want.Reason, resp.Status, c.code)
				}
				id, _ := resp.Value("x-request-id")
				logged := log.of(t, id)
				extauthztest.Eventually(t, c.want.Reason, func() bool {
					if err := errs.writer.Tick(t.Context()); err != nil {
						t.Fatal(err)
					}
					found, err := journal.NewReader(errs.redis.Admin).Find(t.Context(), []string{"small"}, logged.DecisionID)
					if err != nil {
						t.Fatal(err)
					}
					if found == nil {
						return false
					}
					want := c.want
					want.API, want.Code, want.Decision, want.Time, want.Request, want.Address = "small", c.code, logged.DecisionID, found.Time, found.Request, "127.0.0.1"
					if c.want.Reason == "malformed_credential" {
						want.Handle = found.Handle
					}
					if *found != want || found.Request != id || time.Since(found.Time).Abs() > extauthztest.Limit {
						t.Errorf("%s, request %s\nwant %s", found, id, &want)
					}
					return true
				})
			}
			app.answer <- true
			if err := <-held; err != nil {
				t.Error(err)
			}
			hold := everything(t, errs.redis.Admin) + everything(t, store.Admin)
			for _, secret := range append(keptSecrets(secrets), "HUNTER") {
				if strings.Contains(hold, secret) {
					t.Errorf("Redis holds %s", secret)
				}
			}
			if !strings.Contains(hold, "rate_limited") {
				t.Error("it was not looked through")
			}
		})
	}
}

func keptSecrets(secrets map[string]string) (all []string) {
	for _, s := range secrets {
		all = append(all, s)
	}
	return all
}

// A flood of refusals costs Redis a write a second, and each of them is counted.
func TestEnvoyFloodOfRefusals(t *testing.T) {
	errs := &kept{}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		errs.keep(t)(c)
		c.Decisions = extauthz.LogNone
	}, extauthztest.SmallFile(refusing()...))
	entries, secrets := refusedKeys()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	e := startEdge(t, envoyVersions()[0], envoytest.Settings{Bootstrap: bootstrap(t), Tollgate: s.Addr, Upstream: "127.0.0.1:1"}, s)
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan bool)
	began := time.Now()
	go func() {
		defer close(ended)
		errs.writer.Run(ctx, func(err error) { t.Error(err) })
	}()
	const requests, workers = 20_000, 32
	client := &http.Client{Timeout: extauthztest.Limit, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer client.CloseIdleConnections()
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			for range requests / workers {
				if err := refusedOnce(client, e.envoy.Addr(), secrets["inactive"]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	end()
	<-ended
	seconds := time.Since(began).Seconds()
	answer, err := journal.NewReader(errs.redis.Admin).Ask(t.Context(), journal.Question{API: "small"})
	if err != nil {
		t.Fatal(err)
	}
	told := uint64(0)
	for _, found := range answer.Entries {
		told += 1 + found.More
	}
	stats := errs.writer.Stats()
	t.Logf("%d refusals in %.1f s: %d entries", requests, seconds, stats.Written)
	if told != requests || float64(stats.Written) > seconds+2 {
		t.Errorf("%d entries stand for %d requests in %.1f s", stats.Written, told, seconds)
	}
	calls := 0
	for line := range strings.Lines(errs.redis.Do(t, "info", "commandstats").(string)) {
		if name, _, _ := strings.Cut(line, ":"); name == "cmdstat_evalsha" || name == "cmdstat_eval" {
			calls++
			if n := callsOf(t, line); float64(n) > seconds+2 {
				t.Errorf("%s in %.1f s", line, seconds)
			}
		}
	}
	if calls == 0 {
		t.Error("no calls are counted")
	}
}

func refusedOnce(client *http.Client, address, secret string) error {
	req, err := http.NewRequest("GET", "http://"+address+"/items/1?q=x", nil)
	if err != nil {
		return err
	}
	req.Host = "small.test"
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// callsOf reads a line of INFO commandstats.
func callsOf(t *testing.T, line string) int {
	t.Helper()
	m := regexp.MustCompile(`calls=(\d+)`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no calls in %q", line)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
