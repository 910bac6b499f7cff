package envoy_test

import (
	"strings"
	"sync"
	"testing"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
)

// observed keeps what access logs said.
type observed struct {
	mu      sync.Mutex
	entries []extauthz.AccessLogEntry
}

// Observed implements extauthz.Observer.
func (o *observed) Observed(e *extauthz.AccessLogEntry) {
	kept := *e
	for _, s := range []*string{&kept.DecisionID, &kept.Reason, &kept.API, &kept.Route, &kept.KeyID, &kept.Team, &kept.Plan, &kept.SlotID, &kept.RequestID} {
		*s = strings.Clone(*s)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.entries = append(o.entries, kept)
}

// foreign counts the entries without our metadata.
func (o *observed) foreign() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.entries {
		if e.DecisionID == "" {
			n++
		}
	}
	return n
}

// of waits for the entry of a request that has ended.
func (o *observed) of(t *testing.T, requestID string) (e extauthz.AccessLogEntry) {
	t.Helper()
	extauthztest.Eventually(t, "an access-log entry of request "+requestID, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, e = range o.entries {
			if e.RequestID == requestID && !e.Periodic {
				return true
			}
		}
		return false
	})
	return e
}

func TestEnvoyTellsHowRequestsEnd(t *testing.T) {
	file := extauthztest.SmallFile("hosts: [small.test]", "hosts: [api.pixelbyte.io, small.test]")
	log := &observed{}
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = log }, file)
			secret, entries := extauthztest.SmallKey()
			s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
			e := startEnvoy(t, version, bootstrap(t), s.Addr, s)
			resp := e.send(t, &envoytest.Request{Method: "GET", Target: "/items/1", Host: "small.test", Headers: [][2]string{{"authorization", "Bearer " + secret}}}, "h1")
			id, _ := resp.Value("x-request-id")
			got := log.of(t, id)
			if got.Code != 200 || got.KeyID != "key_small" || got.BytesOut != uint64(len(resp.Body)) || got.Reason != "allowed" || got.Plan != "basic" || got.Duration <= 0 {
				t.Errorf("%d %s\n%+v", resp.Status, resp.Body, got)
			}
			t.Logf("%+v", got)
		})
	}
}
