package extauthz_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/limits"
	"tollgate/policy/limits/counters"
)

func TestLimitMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	leases := counters.NewLeases(counters.NewStore(extauthztest.NewRedis(t, "embedded"), nil), counters.Options{Timeout: extauthztest.Limit, Clock: func() time.Duration { return 0 }})
	extauthz.RegisterLimits(registry, leases)
	spend := &limits.Spend{ID: "a", Windows: []limits.Window{{Name: "day", Limit: 1000, Per: limits.Month}}, Cost: 1}
	for range 4 {
		if res := new(limits.Result); !leases.Try(spend, res) {
			if res, err := leases.Spend(extauthztest.Within(t), spend); err != nil || !res.Allowed {
				t.Fatal(res, err)
			}
		}
	}
	mustTell(t, registry,
		`tollgate_limit_spends_total{from="lease"} 2`, `tollgate_limit_spends_total{from="store"} 2`, `tollgate_limit_spends_total{from="refusal"} 0`,
		`tollgate_limit_spends_total{from="reading"} 0`, "tollgate_limit_trips_total 2", "tollgate_limit_units_held 2", "tollgate_limit_units_stranded_total 0", "tollgate_limit_clock_jumps_total 0",
		"tollgate_limit_entries 1")
}
