package policy_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/limits"
)

// changing has plans that count a month and a day of the same names, in months of different
// anchors.
const changing = `
api: shop
hosts: [shop.example.com, sandbox.example.com]
credentials: [bearer]
environments:
- {name: live, prefix: sk_live_, hosts: [shop.example.com]}
- {name: test, prefix: sk_test_, hosts: [sandbox.example.com], quota: false}
routes: [{name: list, match: "GET /items", scope: none}, {name: dear, match: "GET /dear", scope: none, cost: 5}]
scopes: [{name: read}]
plans:
- {name: first, limits: [{name: day, requests: 8, per: day}, {name: month, requests: 10, per: month}]}
- {name: own, month_anchor: key, limits: [{name: day, requests: 6, per: day}, {name: month, requests: 8, per: month}]}
- {name: late, month_anchor: 31, limits: [{name: day, requests: 8, per: day, environments: [live]}, {name: day_test, requests: 5, per: day, environments: [test]}, {name: month, requests: 10, per: month, quota: true}]}
- {name: without, limits: [{name: day, requests: 8, per: day}]}
`

// Whatever is changed in mid-window (plan, anchor, override, environment), a month of the same name
// is handed out once in 28 days at most, a day once a day, and what is not used for two months is
// there again.
func TestChangesHandOutNothingTwice(t *testing.T) {
	set := compiled(t, changing+shopAnswers())
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Date(2027, 1, rapid.IntRange(1, 31).Draw(rt, "day"), 12, 0, 0, 0, time.UTC)
		local := limits.NewLocal(1, func() time.Time { return now }, 10)
		decider := policy.NewDecider(keys.NewHasher(nil), local, func() time.Time { return now })
		key := goodWorld().key
		key.Plan = "first"
		const largest, mostADay = 10, 8 // of all plans and overrides
		var began, spent, idle time.Time
		total, perDay := int64(0), map[time.Time]int64{}
		for range rapid.IntRange(1, 120).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				key.Plan = rapid.SampledFrom([]string{"first", "own", "late", "without"}).Draw(rt, "plan")
				key.Limits = nil
			case 1:
				key.AnchorDay = rapid.IntRange(1, 31).Draw(rt, "anchor")
			case 2:
				key.Limits = nil
				if key.Plan != "without" {
					key.Limits = []keys.Override{{Name: "month", Requests: rapid.Int64Range(0, largest).Draw(rt, "month")}}
				}
			case 3:
				key.Environment = rapid.SampledFrom([]string{"live", "test"}).Draw(rt, "environment")
			case 4:
				now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(rt, "days")) * 24 * time.Hour)
			case 5:
				now = now.Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "hours")) * time.Hour)
			}
			if rapid.IntRange(0, 2).Draw(rt, "asks") == 0 {
				continue
			}
			d, spend := decideLocally(rt, decider, set, &key, local, rapid.SampledFrom([]string{"/items", "/dear"}).Draw(rt, "path"))
			day := now.Truncate(24 * time.Hour)
			for _, w := range spend.Windows {
				switch {
				case w.Name == "month" && !d.Allow && w.Fits(spend.Cost) && now.Sub(idle) > 60*24*time.Hour && perDay[day] == 0:
					rt.Fatalf("%s at %v, and nothing was spent since %v", d.Reason, now, idle)
				case w.Name == "month" && d.Allow:
					if began.IsZero() {
						began, _ = w.Bounds(now)
					}
					total, spent = total+spend.Cost, now
				case w.Name == "day" && d.Allow:
					if perDay[day] += spend.Cost; perDay[day] > mostADay {
						rt.Fatalf("%d allowed on %v", perDay[day], day)
					}
				}
			}
			if d.Allow {
				idle = now
			}
			if times := 1 + int64(now.Sub(began)/(28*24*time.Hour)); !began.IsZero() && total > times*largest {
				rt.Fatalf("%d allowed since %v, the last at %v: more than %d times %d", total, began, spent, times, largest)
			}
		}
	})
}

// decideLocally runs one decision for the key, its limits counted by local, and returns what was
// spent too.
func decideLocally(t *rapid.T, decider *policy.Decider, set *policy.Set, key *keys.Key, local *limits.Local, path string) (*policy.Decision, limits.Spend) {
	request := goodWorld().request
	request.Target = path
	if key.Environment == "test" {
		request.Host = "sandbox.example.com"
		request.Headers = []policy.Header{{"authorization", "Bearer " + secret("sk_test_")}}
	}
	check := &policy.Check{}
	wait := decider.Begin(check, set, &request)
	for wait != policy.Done {
		switch wait {
		case policy.WaitKey:
			k := *key
			wait = check.Found(*keys.NewGrant(&k), nil)
		case policy.WaitLimits:
			*check.Result() = local.Spend(check.Spend())
			wait = check.Spent(nil)
		}
	}
	if d := check.Decision(); !d.Allow && !d.Reason.Limited() {
		t.Fatalf("%s", d.Reason)
	}
	return check.Decision(), *check.Spend()
}
