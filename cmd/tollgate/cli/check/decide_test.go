package check

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/extauthz/extauthztest"
	"tollgate/policy"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/roles"
	"tollgate/policy/policyfile"
	"tollgate/testdata"
)

// identity are the headers by which an application is told who called.
var identity = []string{"x-consumer-id", "x-consumer-username", "x-credential-identifier", "x-consumer-plan", "x-authenticated-scope"}

// TestSameAsServer decides random requests of the four APIs, with shadow_mode in the API, in each
// plan, in each limit, or nowhere, and some counters that are none. What tollgate check says is
// what a server then answers, to the byte, and saying it changes nothing in the store.
func TestSameAsServer(t *testing.T) {
	const shadow = "shadow_mode: true"
	limit := regexp.MustCompile(`per: (?:second|minute|hour|day|month)\b`)
	plan := regexp.MustCompile(`(?m)^(- name: .*\n)(  (?:concurrent|limits|key_caps|failure_mode)\b)`)
	for _, api := range testdata.APIs() {
		for _, mode := range []string{"nowhere", "api", "plans", "limits"} {
			t.Run(api+"/"+mode, func(t *testing.T) {
				file, entries, blocks := extauthztest.APIFiles(t, api)
				plain := len(file.Data)
				if !bytes.Contains(file.Data, []byte("plans:\n")) && (mode == "plans" || mode == "limits") {
					return // it has none
				}
				switch mode {
				case "api":
					file.Data = append([]byte(shadow+"\n"), file.Data...)
				case "plans":
					file.Data = plan.ReplaceAll(file.Data, []byte("$1  "+shadow+"\n$2"))
				case "limits":
					file.Data = limit.ReplaceAll(file.Data, []byte("$0, "+shadow))
				}
				if (len(file.Data) == plain) != (mode == "nowhere") {
					t.Fatal("the policy is not changed")
				}
				sameAsServer(t, file, entries, func(random *rand.Rand, secrets []string) policy.Probe {
					return probe(random, api, blocks[random.IntN(len(blocks))], secrets[random.IntN(len(secrets))])
				})
			})
		}
	}
}

func sameAsServer(t *testing.T, file policyfile.File, entries []keyfile.Entry, next func(*rand.Rand, []string) policy.Probe) {
	set, err := policyfile.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := extauthztest.NewStack(t, nil, file)
	s.Exact = true
	client := extauthztest.NewRedis(t, "redis")
	s.Use(t, client, entries)
	secrets := []string{"", "nonsense"}
	for _, e := range entries {
		if policy.WellFormed(e.Secret) {
			secrets = append(secrets, e.Secret)
		}
	}
	w := &World{Client: client, Hasher: s.Hasher, Who: roles.Actor{Operator: true}}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for n := range 100 {
		p := next(random, secrets)
		if n%10 == 9 {
			spoil(t, client)
			s.Join(t, client) // as a server that remembers no refusal from before
		}
		problem := ""
		for range 4 { // the clock may reach another second in between
			if problem = compare(t, w, s, set, p); problem == "" {
				break
			}
		}
		if problem != "" {
			t.Fatalf("seed %d: %s %s: %s", seed, p.Method, p.Target, problem)
		}
	}
}

// spoil makes a counter one that nobody can read.
func spoil(t *testing.T, client *redis.Client) {
	t.Helper()
	ctx := extauthztest.Within(t)
	names, _, err := client.Scan(ctx, 0, "tg:v1:count:*", 1000).Result()
	if err != nil || len(names) == 0 {
		return
	}
	fields, err := client.HKeys(ctx, names[0]).Result()
	if err != nil || len(fields) == 0 {
		t.Fatal(err, fields)
	}
	if err := client.HSet(ctx, names[0], fields[0], "no counter").Err(); err != nil {
		t.Fatal(err)
	}
}

// probe is a request like that of a block, or one that is a little odd.
func probe(random *rand.Rand, api string, b testdata.Block, secret string) policy.Probe {
	target, _, _ := strings.Cut(b.Target, "?")
	p := policy.Probe{API: api, Method: b.Method, Target: target, Secret: secret}
	switch random.IntN(12) {
	case 0:
		p.Method = "DELETE"
	case 1:
		p.Target += "//x"
	case 2:
		p.API, p.Host = "", b.Host()
	case 3:
		p.Address = netip.MustParseAddr("203.0.113.9")
	case 4:
		p.Address = netip.MustParseAddr("2001:db8::1")
	case 5:
		p.Headers = []policy.Header{{Name: "content-type", Value: "application/grpc"}}
	case 6:
		p.Target += "?a=b;c"
	}
	return p
}

// compare says in what the two differ about a request.
func compare(t *testing.T, w *World, s *extauthztest.Stack, set *policy.Set, p policy.Probe) string {
	t.Helper()
	ctx := extauthztest.Within(t)
	r, err := set.Request(p)
	if err != nil {
		return ""
	}
	before := dump(t, w.Client)
	d, err := decide(ctx, w, set, r, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	d.Explain()
	if !maps.Equal(before, dump(t, w.Client)) {
		t.Fatalf("%+v: check has changed the store", p.Target)
	}
	var check policy.Check
	server := s.Authorizer.Decide(ctx, time.Now(), set, r, &check)
	if server.Shadow != policy.Allowed && !check.Identified() {
		for _, h := range identity {
			if !slices.Contains(server.Remove, h) || slices.ContainsFunc(server.Request, func(got policy.Header) bool { return got.Name == h }) {
				t.Errorf("%s: %s passes: %q %q", server.Shadow, h, server.Request, server.Remove)
			}
		}
	}
	return differs(d.Decision(), server)
}

func differs(a, b *policy.Decision) string {
	norm := func(d *policy.Decision) string {
		meta := slices.DeleteFunc(slices.Clone(d.Metadata), func(h policy.Header) bool { return h.Name == "decision_id" || h.Name == "slot_id" })
		body := bytes.ReplaceAll(d.Body, []byte(cmp.Or(d.ID, "-")), nil)
		return strings.ReplaceAll(fmt.Sprint(d.Allow, d.Reason, d.Shadow, d.FailRPC, d.Status, string(body), d.Response, d.Request, d.Remove, d.Target, meta), cmp.Or(d.ID, "-"), "")
	}
	if x, y := norm(a), norm(b); x != y {
		return fmt.Sprintf("check says\n%s\nthe server\n%s", x, y)
	}
	return ""
}

// dump returns all that a store holds.
func dump(t *testing.T, c redis.UniversalClient) map[string]string {
	t.Helper()
	ctx := context.Background()
	all := map[string]string{}
	names, err := c.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	pipe := c.Pipeline()
	dumps, ends := map[string]*redis.StringCmd{}, map[string]*redis.DurationCmd{}
	for _, name := range names {
		dumps[name], ends[name] = pipe.Dump(ctx, name), pipe.PExpireTime(ctx, name)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		all[name] = dumps[name].Val() + " " + ends[name].Val().String()
	}
	return all
}
