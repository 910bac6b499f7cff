package extauthz_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/httpserver"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/limits"
)

// stressKey is one of the keys of TestConcurrentChecks, and what is known of its spends.
type stressKey struct {
	secret, id, name, reason string // reason is what each of its requests comes to
	limit                    int64  // no two keys have the same
	started, ended           atomic.Int64
}

// stressKeys makes keys of which one in ten each is expired, inactive, unknown and
// malformed, and of the others every second one is counted exactly.
func stressKeys(count int) (list []*stressKey, entries []keyfile.Entry) {
	for i := range count {
		k := &stressKey{
			id: fmt.Sprintf("key_%04d", i), name: fmt.Sprint("name ", i), reason: "allowed", limit: 100_000 + int64(i),
			secret: keys.Seal("sm_", fmt.Sprintf("AKeyOfTheManyKeysTest%06d", i)),
		}
		entry := keyfile.Entry{Secret: k.secret, Key: keys.Key{
			ID: k.id, API: "small", Team: "team", Name: k.name, Plan: []string{"basic", "exact"}[i/10%2], Status: keys.Active, Version: 1, LimitID: k.id,
			AnchorDay: 1, CreatedAt: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), Limits: []keys.Override{{Name: "hour", Requests: k.limit}},
		}}
		switch i % 10 {
		case 0:
			k.reason, entry.Key.ExpiresAt = "expired_key", time.Date(2025, 2, 1, 0, 0, 0, 0, time.UTC)
		case 1:
			k.reason, entry.Key.Status = "inactive_key", keys.Inactive
		case 2:
			k.reason = "unknown_key"
		case 3:
			k.reason, k.secret = "malformed_credential", k.secret[:len(k.secret)-1]+"~"
		}
		if i%10 != 2 && i%10 != 3 {
			entries = append(entries, entry)
		}
		list = append(list, k)
	}
	return list, entries
}

// Thousands of checks at a time, many keys, some callers gone before the answer: each
// answer is that of its own request, of its own key, and counts that key's spends. What
// would mix them up is memory that is used again too early: of calls, of replies, of
// requests.
func TestConcurrentChecks(t *testing.T) {
	endsAll(t)
	s := extauthztest.NewStack(t, nil, extauthztest.SmallFile(
		"{name: basic, limits: [{name: minute, requests: 5, per: minute}]}",
		"{name: basic, limits: [{name: hour, requests: 9, per: hour}]}\n- {name: exact, counting: exact, limits: [{name: hour, requests: 9, per: hour}]}",
		"errors:", "rate_headers: {family: x-ratelimit, reset: epoch}\nerrors:", "dialect: nested", "dialect: envelope\n  request_id: requestId"))
	s.Clock.Set(time.Date(2027, 3, 1, 12, 10, 0, 0, time.UTC))
	list, entries := stressKeys(150)
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	const workers, each = 32, 70
	var clients []authv3.AuthorizationClient
	for range 4 {
		clients = append(clients, authv3.NewAuthorizationClient(s.Dial(t)))
	}
	long := strings.Repeat("long ", 500) // gRPC uses memory again from 1 KiB on
	var decisions sync.Map               // by their id
	var answered, left atomic.Int64
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range each {
				k, request := list[rng.IntN(len(list))], fmt.Sprintf("request-%d-%d", w, i)
				ctx, cancel := context.WithTimeout(t.Context(), extauthztest.Limit)
				if rng.IntN(8) == 0 {
					time.AfterFunc(time.Duration(rng.IntN(1500))*time.Microsecond, cancel)
				}
				ended := k.ended.Load()
				k.started.Add(1)
				headers := map[string]string{"authorization": "Bearer " + k.secret, "x-request-id": request}
				if i%2 == 0 {
					headers["x-long"] = long
				}
				resp, err := clients[w%len(clients)].Check(ctx, extauthztest.Get("/items/"+request, headers))
				cancel()
				switch {
				case err == nil:
					answered.Add(1)
					k.ended.Add(1)
					if problem := k.problem(resp, request, s.Hasher, ended); problem != "" {
						t.Errorf("%s of %s: %s: %v", request, k.id, problem, resp)
					}
					id := metadata(resp)["decision_id"]
					if other, known := decisions.LoadOrStore(id, request); known {
						t.Errorf("%s and %v are both decision %q", request, other, id)
					}
				case status.Code(err) == codes.Canceled:
					left.Add(1)
				default:
					t.Errorf("%s: %v", request, err)
				}
			}
		})
	}
	work.Wait()
	if all := answered.Load() + left.Load(); all != workers*each || left.Load() == 0 || answered.Load() < all/2 {
		t.Errorf("%d answered, %d left, of %d", answered.Load(), left.Load(), workers*each)
	}
}

// problem says what in an answer is not of this key and this request. ended is how many
// of the key's requests were over when this one began.
func (k *stressKey) problem(resp *authv3.CheckResponse, request string, hasher *keys.Hasher, ended int64) string {
	meta, id := metadata(resp), k.id
	if k.reason == "unknown_key" || k.reason == "malformed_credential" {
		id = hasher.Handle(k.secret)
	}
	if meta["reason"] != k.reason || meta["key_id"] != id {
		return fmt.Sprintf("the metadata is of another decision: want %s, %s", k.reason, id)
	}
	headers := map[string]string{}
	if k.reason != "allowed" {
		if denied := resp.GetDeniedResponse(); resp.GetStatus().GetCode() == 0 || denied.GetStatus().GetCode() != 401 || !strings.Contains(denied.GetBody(), `"requestId":"`+request+`"`) {
			return "not its denial"
		}
		for _, h := range resp.GetDeniedResponse().GetHeaders() {
			headers[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
		}
		if want := k.reason == "expired_key" || k.reason == "inactive_key"; want != (headers["x-ratelimit-limit"] == fmt.Sprint(k.limit)) {
			return "not its limit"
		}
		return ""
	}
	for _, h := range append(resp.GetOkResponse().GetHeaders(), resp.GetOkResponse().GetResponseHeadersToAdd()...) {
		headers[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	if resp.GetStatus().GetCode() != 0 || headers["x-credential-identifier"] != k.id || headers["x-consumer-username"] != k.name {
		return "not its identity"
	}
	remaining, err := strconv.ParseInt(headers["x-ratelimit-remaining"], 10, 64)
	if least, most := k.limit-k.started.Load(), k.limit-ended-1; err != nil || headers["x-ratelimit-limit"] != fmt.Sprint(k.limit) || remaining < least || remaining > most {
		return fmt.Sprintf("not its counter: %q left of %q, want %d to %d", headers["x-ratelimit-remaining"], headers["x-ratelimit-limit"], least, most)
	}
	return ""
}

func metadata(resp *authv3.CheckResponse) map[string]string {
	meta := map[string]string{}
	for name, value := range resp.GetDynamicMetadata().GetFields() {
		meta[name] = value.GetStringValue()
	}
	return meta
}

// endsAll sees, when all else of the test has been cleaned up, that no goroutine of it
// is left. Call it first.
func endsAll(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// Callers who leave while their checks wait for a key or for the limits, over gRPC and
// over HTTP, leave nothing behind, whatever the store does.
func TestCallersLeave(t *testing.T) {
	endsAll(t)
	secret, _ := extauthztest.SmallKey()
	var waiting atomic.Int64
	wait := func(ctx context.Context) error {
		waiting.Add(1)
		<-ctx.Done()
		return ctx.Err()
	}
	lookups := extauthztest.BrokenStore{OnLookup: func(ctx context.Context) (keys.Grant, error) { return keys.Grant{}, wait(ctx) }}
	spends := extauthztest.BrokenStore{OnLookup: extauthztest.Found, OnSpend: func(ctx context.Context) (limits.Result, error) { return limits.Result{}, wait(ctx) }}
	for name, store := range map[string]extauthztest.BrokenStore{"key": lookups, "limits": spends} {
		s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Keys, c.Limits, c.Deadline = store, store, 200*time.Millisecond }, extauthztest.SmallFile())
		overHTTP := extauthztest.ServeHTTP(t, s, httpserver.Config{Trusted: extauthztest.Loopback()})
		client := authv3.NewAuthorizationClient(s.Dial(t))
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		waiting.Store(0)
		const each = 20
		var conns []net.Conn
		for range each {
			calls.Go(func() {
				if _, err := client.Check(ctx, extauthztest.Get("/items/1", map[string]string{"authorization": "Bearer " + secret})); status.Code(err) != codes.Canceled {
					t.Errorf("%s: %v", name, err)
				}
			})
			c, err := net.Dial("tcp", overHTTP)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			if _, err := io.WriteString(c, "GET /envoy/api=small/items/1 HTTP/1.1\r\nauthorization: Bearer "+secret+"\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		extauthztest.Eventually(t, "all wait for the store", func() bool { return waiting.Load() >= 2*each })
		cancel()
		for _, c := range conns {
			_ = c.Close()
		}
		calls.Wait()
	}
}
