package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
	"tollgate/policy/limits"
)

const (
	// pepper is of no use to anybody: the keys live as long as one run.
	pepper = "the pepper of tollgate-bench"
	// prefix is that of the keys of the policy.
	prefix = "be_"
	// zipf is the exponent by which keys are chosen: the hottest of 10,000 gets one
	// request in seven, the last half of them one in eleven together.
	zipf = 1.1
	// raised is what the windows of hot keys are raised to.
	raised = 1 << 40
	// fastest is more checks a second than any server here can do. It decides which
	// keys are hot.
	fastest = 200_000
)

// policyText is the policy of the measurement: a key, an address list, a scope, and
// a plan for each number of windows.
func policyText() string {
	var b strings.Builder
	b.WriteString(`api: bench
hosts: [bench.example.com]
credentials: [bearer]
key_format: {prefixes: [be_]}
client_address: {from: external-address}
scopes: [{name: read}, {name: write}]
routes:
- {name: create, match: "POST /v1/jobs", scope: write}
- {name: list, match: "GET /v1/jobs", scope: read}
- {name: get, match: "GET /v1/jobs/{id}", scope: read}
- {name: result, match: "GET /v1/jobs/{id}/result", scope: read}
- {name: cancel, match: "DELETE /v1/jobs/{id}", scope: write}
- {name: models, match: "GET /v1/models", scope: read}
- {name: health, match: "GET /health", public: true}
rate_headers: {family: x-ratelimit}
errors:
  dialect: nested
  answers:
  - {on: [missing_credential], status: 401, code: unauthorized, message: "A key is required"}
  - {on: [malformed_credential, unknown_key, revoked_key, wrong_environment], status: 401, code: unauthorized, message: "The key is not valid"}
  - {on: [inactive_key, expired_key], status: 401, code: unauthorized, message: "The key is switched off or expired"}
  - {on: [address_denied, scope_denied, route_denied], status: 403, code: forbidden, message: "The key does not allow this"}
  - {on: [rate_limited, quota_exceeded], status: 429, code: rate_limited, message: "Retry after {retry_after} seconds"}
  - {on: [undecided], status: 503, code: unavailable, message: "Try again later"}
plans:
`)
	for n := 1; n <= len(windows()); n++ {
		writePlan(&b, plan(n), n)
	}
	return b.String()
}

// slotsPolicyText is the same, and a plan that limits requests under way, to more than there ever
// are.
func slotsPolicyText() string {
	var b strings.Builder
	b.WriteString(strings.Replace(policyText(), "quota_exceeded]", "quota_exceeded, concurrency_exceeded]", 1))
	writePlan(&b, slotsPlan, loadWindows)
	fmt.Fprintf(&b, "  concurrent: %d\n", limits.MaxPlaces)
	return b.String()
}

func writePlan(b *strings.Builder, name string, n int) {
	fmt.Fprintf(b, "- name: %s\n  limits:\n", name)
	for _, w := range windows()[:n] {
		fmt.Fprintf(b, "  - {name: %s, requests: %d, per: %s}\n", w.name, w.requests, w.per)
	}
}

type window struct {
	name, per string
	requests  int64
}

// windows are those of the largest plan. The first three are those of the load.
func windows() []window {
	return []window{
		{"minute", "minute", 1_000}, {"hour", "hour", 20_000}, {"day", "day", 200_000},
		{"month", "month", 2_000_000}, {"second", "second", 100}, {"burst", "minute", 900},
	}
}

// loadWindows is how many windows the plan of the load has.
const loadWindows = 3

// slotsPlan is the plan that limits requests under way.
const slotsPlan = "slots"

func plan(windows int) string { return fmt.Sprintf("windows%d", windows) }

// keySet is a kind of key that a load is made of.
type keySet struct {
	name    string
	size    int
	windows int // of the plan; 0 = the store does not know these keys
	// concurrent gives each key the plan that limits requests under way.
	concurrent bool
	// broken makes the checksums wrong.
	broken bool
	// spent gives each key one request a day.
	spent bool
	// raise raises every key, not only the hot ones.
	raise bool
}

// secrets returns the secrets of the set, the hottest key first: the same in every
// run.
func (s keySet) secrets() []string {
	seed := rand.NewPCG(1, uint64(len(s.name))<<32|uint64(s.windows))
	for _, c := range s.name {
		seed.Seed(seed.Uint64(), uint64(c))
	}
	source := rand.New(seed)
	const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	list := make([]string, s.size)
	random := make([]byte, 27)
	for i := range list {
		for j := range random {
			random[j] = base62[source.IntN(len(base62))]
		}
		secret := []byte(keys.Seal(prefix, string(random)))
		if s.broken {
			last := &secret[len(secret)-1]
			*last = base62[(strings.IndexByte(base62, *last)+1)%len(base62)]
		}
		list[i] = string(secret)
	}
	return list
}

// write writes the secrets to a file for the load.
func (s keySet) write(path string) error {
	return os.WriteFile(path, []byte(strings.Join(s.secrets(), "\n")+"\n"), 0o600)
}

// entries returns the keys of a part of the set's secrets, which begins at first.
func (s keySet) entries(secrets []string, first int) []keyfile.Entry {
	list := make([]keyfile.Entry, len(secrets))
	hot := hotKeys(s.size)
	for n, secret := range secrets {
		i := first + n
		id := fmt.Sprintf("key_%s%07d", s.name, i)
		k := keys.Key{ID: id, API: "bench", Team: fmt.Sprintf("team_%d", i/10), Name: fmt.Sprintf("%s %d", s.name, i),
			Plan: plan(s.windows), LimitID: id, Scopes: []string{"read"}, Status: keys.Active, Version: 1,
			IPs:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("198.51.100.0/24")},
			CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		if s.raise || !s.spent && i < hot {
			for _, w := range windows()[:s.windows] {
				k.Limits = append(k.Limits, keys.Override{Name: w.name, Requests: raised})
			}
		}
		if s.concurrent {
			k.Plan = slotsPlan
		}
		if s.spent {
			k.Limits = []keys.Override{{Name: "day", Requests: 1}}
		}
		list[n] = keyfile.Entry{Key: k, Secret: secret}
	}
	return list
}

// hotKeys returns how many of the keys could meet a limit of theirs at the fastest
// rate: those whose share of a minute, an hour or a day is more than half of it.
func hotKeys(size int) int {
	sum := 0.0
	for k := 1; k <= size; k++ {
		sum += math.Pow(float64(k), -zipf)
	}
	// A run is minutes long, so a minute's limit is the first that is met; an hour's
	// and a day's allow 20 and 200 of such minutes.
	perMinute := fastest * 60 / sum
	for k := 1; k <= size; k++ {
		if perMinute*math.Pow(float64(k), -zipf) < float64(windows()[0].requests)/2 {
			return k - 1
		}
	}
	return size
}

// seedPart is how many keys are made at once.
const seedPart = 500

// seed writes the keys of a set into a store.
func (s keySet) seed(ctx context.Context, client *redis.Client) error {
	store, hasher := store.New(client), keys.NewHasher([]byte(pepper))
	secrets := s.secrets()
	errs := make([]error, 4*runtime.GOMAXPROCS(0))
	var next atomic.Int64
	var work sync.WaitGroup
	for w := range errs {
		work.Go(func() {
			// In parts: the records of a million keys at once would fill the memory.
			for errs[w] == nil {
				from := int(next.Add(seedPart)) - seedPart
				if from >= len(secrets) {
					return
				}
				part := secrets[from:min(from+seedPart, len(secrets))]
				_, errs[w] = admin.Seed(ctx, store, s.entries(part, from), hasher)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}
