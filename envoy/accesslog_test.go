package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/keys"
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

func (o *observed) all() []extauthz.AccessLogEntry {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.entries)
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

// next waits for entries and forgets them.
func (o *observed) next(t *testing.T, n int) (list []extauthz.AccessLogEntry) {
	t.Helper()
	extauthztest.Eventually(t, fmt.Sprintf("%d entries of an access log", n), func() bool { return len(o.all()) >= n })
	o.mu.Lock()
	defer o.mu.Unlock()
	list, o.entries = o.entries, nil
	return list
}

// application answers as the path says.
type application struct{ came, answer chan bool }

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	switch r.URL.Path {
	case "/items/broken":
		http.Error(w, "broken", http.StatusServiceUnavailable)
	case "/items/slow":
		a.came <- true
		select {
		case <-a.answer:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "at last")
	default:
		_, _ = io.WriteString(w, "hello")
	}
}

const unasked = `- match: {path: /items/unasked}
                route: {cluster: upstream}
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    disabled: true
              `

// logging is a bootstrap that tells soon of requests that last, and has a route that Tollgate is
// not asked about.
func logging(t *testing.T, changes ...string) []byte {
	t.Helper()
	const all = "- match: {prefix: /}\n"
	return []byte(strings.NewReplacer(append(changes, "access_log_flush_interval: 20s", "access_log_flush_interval: 0.1s", all, unasked+all)...).Replace(string(bootstrap(t))))
}

func counted(t *testing.T, s *extauthztest.Stack, series string) {
	t.Helper()
	extauthztest.Eventually(t, series, func() bool { return strings.Contains(extauthztest.MetricsOf(s.Registry), "\n"+series+"\n") })
}

// How each request ended, with what was decided about it.
func TestEnvoyTellsHowRequestsEnd(t *testing.T) {
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			log, app := &observed{}, &application{make(chan bool, 1), make(chan bool)}
			upstream := httptest.NewServer(app)
			defer upstream.Close()
			s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = log }, extauthztest.SmallFile("requests: 5", "requests: 100"))
			secret, entries := extauthztest.SmallKey()
			s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
			e := startEnvoyTo(t, upstream.Listener.Addr().String(), version, logging(t), s.Addr, s)
			request := func(target, key string) *envoytest.Request {
				return &envoytest.Request{Method: "POST", Target: target, Host: "small.test", Body: []byte("some text"), Headers: [][2]string{{"authorization", "Bearer " + key}}}
			}
			for _, c := range []struct {
				name, target, key string
				want              extauthz.AccessLogEntry
			}{
				{"allowed", "/items/1", secret, extauthz.AccessLogEntry{Reason: "allowed", API: "small", Route: "items", KeyID: "key_small", Team: "team_s", Plan: "basic", Code: 200, BytesIn: 9}},
				{"an error of the application", "/items/broken", secret, extauthz.AccessLogEntry{Reason: "allowed", API: "small", Route: "items", KeyID: "key_small", Team: "team_s", Plan: "basic", Code: 503, Client: netip.MustParseAddr("127.0.0.1"), BytesIn: 9}},
				{"without a key", "/items/1", "", extauthz.AccessLogEntry{Reason: "missing_credential", API: "small", Route: "items", Code: 401, BytesIn: 9}},
				{"not asked", "/items/unasked", secret, extauthz.AccessLogEntry{Code: 200, BytesIn: 9}},
			} {
				resp := e.send(t, request(c.target, c.key), "h1")
				got := log.next(t, 1)[0]
				c.want.RequestID, _ = resp.Value("x-request-id")
				if (got.DecisionID == "") != (c.want.Reason == "") || got.Duration <= 0 || time.Since(got.Start) > extauthztest.Limit {
					t.Errorf("%s: %+v", c.name, got)
				}
				c.want.DecisionID, c.want.Start, c.want.Duration = got.DecisionID, got.Start, got.Duration
				if c.want.BytesOut = uint64(len(resp.Body)); got != c.want {
					t.Errorf("%s:\n%+v\nwant\n%+v", c.name, got, c.want)
				}
			}

			for _, protocol := range []string{"h1", "h2"} {
				ctx, leave := context.WithCancel(t.Context())
				sent := make(chan error, 1)
				go func() {
					send := request("/items/slow", secret).SendH1
					if protocol == "h2" {
						send = request("/items/slow", secret).SendH2
					}
					_, err := send(ctx, e.envoy.Addr(), true)
					sent <- err
				}()
				<-app.came
				extauthztest.Eventually(t, "two entries of a request that lasts", func() bool { return len(log.all()) >= 2 })
				leave()
				if err := <-sent; err == nil {
					t.Fatal("the client got an answer")
				}
				extauthztest.Eventually(t, "the end of a request whose client left", func() bool {
					all := log.all()
					return !all[len(all)-1].Periodic
				})
				list := log.next(t, 3)
				for i, got := range list {
					if last := i == len(list)-1; got.Periodic == last || got.Code != 0 || got.KeyID != "key_small" || got.DecisionID != list[0].DecisionID || last && got.Duration < 100*time.Millisecond {
						t.Errorf("%s: entry %d of a request whose client left: %+v", protocol, i, got)
					}
				}
			}
			counted(t, s, `tollgate_access_log_entries_total{kind="ended"} 5`)
			counted(t, s, `tollgate_access_log_entries_total{kind="foreign"} 1`)
			counted(t, s, `tollgate_access_log_streams 1`)
			states := s.GRPC.AccessLogs()
			if len(states) != 1 || states[0].Name != "tollgate" || states[0].Address != "127.0.0.1" || states[0].Streams != 1 || states[0].Opened != 1 ||
				states[0].LagSeconds < 0 || states[0].LagSeconds > 20 || states[0].Decided.IsZero() || states[0].Latest.Before(states[0].First) || states[0].Entries[extauthz.LogEnded] != 5 {
				t.Errorf("%+v", states)
			}
		})
	}
}

// Envoy logs the path of a refused request whole.
func TestNoSecretOfAnAccessLogIsKept(t *testing.T) {
	log := &observed{}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = log }, extauthztest.SmallFile())
	_, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	e := startEnvoy(t, envoyVersions()[0], bootstrap(t), s.Addr, s)
	secret := keys.Seal("sm_", "AKeyThatNobodyKnowsOfThatAPI")
	resp := e.send(t, &envoytest.Request{Method: "GET", Target: "/items/1?api_key=" + secret, Host: "small.test", Headers: [][2]string{{"authorization", "Bearer " + secret}, {"user-agent", secret}, {"referer", secret}, {"cookie", secret}}}, "h1")
	got := log.next(t, 1)[0]
	if resp.Status != 401 || got.Reason != "unknown_key" || got.Code != 401 || got.KeyID == "" || got.Team != "" {
		t.Errorf("%d: %+v", resp.Status, got)
	}
	states, err := json.Marshal(s.GRPC.AccessLogs())
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"the entry": fmt.Sprintf("%+v", got), "the log": s.Log.String(), "metrics": extauthztest.MetricsOf(s.Registry), "the state": string(states)} {
		if strings.Contains(text, secret) || strings.Contains(text, "api_key") {
			t.Errorf("%s: %s", what, text)
		}
	}
}

// A client that leaves while Tollgate decides leaves an entry without a decision, by whose request
// id it is known all the same.
func TestClientThatLeavesDuringTheCheck(t *testing.T) {
	log, asked := &observed{}, make(chan bool, 1)
	waits := func(ctx context.Context) (keys.Grant, error) {
		asked <- true
		<-ctx.Done()
		return keys.Grant{}, ctx.Err()
	}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) {
		c.Observer = log
		c.Keys = extauthztest.BrokenStore{OnLookup: waits}
	}, extauthztest.SmallFile())
	e := startEnvoy(t, envoyVersions()[0], bootstrap(t), s.Addr, s)
	secret, _ := extauthztest.SmallKey()
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-asked
		leave()
	}()
	r := &envoytest.Request{Method: "GET", Target: "/items/1", Host: "small.test", Headers: [][2]string{{"authorization", "Bearer " + secret}}}
	if _, err := r.SendH1(ctx, e.envoy.Addr(), true); err == nil {
		t.Fatal("the client got an answer")
	}
	if got := log.next(t, 1)[0]; got.DecisionID != "" || got.Reason != "" || got.API != "" || got.Code != 0 || len(got.RequestID) != 36 || got.Periodic {
		t.Errorf("%+v", got)
	}
	counted(t, s, `tollgate_access_log_entries_total{kind="foreign"} 1`)
}

// A WebSocket is a request that lasts, and its bytes are those that it carried.
func TestWebSocketsAreLogged(t *testing.T) {
	log, app := &observed{}, newUpgrader(t)
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = log }, extauthztest.SmallFile())
	secret, entries := extauthztest.SmallKey()
	s.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	config := bytes.ReplaceAll(logging(t), []byte("{path: /items/unasked}\n                route: {cluster: upstream}"),
		[]byte("{path: /items/socket}\n                route: {cluster: upstream, upgrade_configs: [{upgrade_type: websocket}]}"))
	config = bytes.ReplaceAll(config, []byte("disabled: true"), []byte("check_settings: {}"))
	e := startEnvoyTo(t, app.addr, envoyVersions()[0], config, s.Addr, s)
	conn, err := net.Dial("tcp", e.envoy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "PROXY UNKNOWN\r\nGET /items/socket HTTP/1.1\r\nHost: small.test\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", secret)
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "101") {
		t.Fatal(line, err)
	}
	extauthztest.Eventually(t, "two entries of an open WebSocket", func() bool { return len(log.all()) >= 2 })
	_, _ = io.WriteString(conn, "to the application\n")
	if answer, err := io.ReadAll(in); err != nil || !strings.HasSuffix(string(answer), "tunnel to the application\n") {
		t.Fatalf("%q, %v", answer, err)
	}
	extauthztest.Eventually(t, "the end of a WebSocket", func() bool {
		all := log.all()
		return !all[len(all)-1].Periodic
	})
	list := log.next(t, 3)
	for i, got := range list {
		if got.Code != 101 || got.KeyID != "key_small" || got.Periodic != (i < len(list)-1) {
			t.Errorf("%d: %+v", i, got)
		}
	}
	if end := list[len(list)-1]; end.BytesIn != 19 || end.BytesOut != 26 || end.Duration < 200*time.Millisecond {
		t.Errorf("%+v", end)
	}
}

// Other logs that come here by mistake are counted and not believed.
func TestOtherLogsAreOnlyCounted(t *testing.T) {
	log := &observed{}
	s := extauthztest.NewStack(t, func(c *extauthz.Config) { c.Observer = log }, extauthztest.SmallFile())
	e := startEnvoy(t, envoyVersions()[0], logging(t, "log_name: tollgate", "log_name: somebody's"), s.Addr, s)
	e.send(t, &envoytest.Request{Method: "GET", Target: "/open", Host: "small.test"}, "h1")
	counted(t, s, `tollgate_access_log_entries_total{kind="other_log"} 1`)
	if all := log.all(); len(all) > 0 {
		t.Errorf("%+v", all)
	}
	if states := s.GRPC.AccessLogs(); len(states) != 1 || states[0].Name != "somebody's" || !states[0].Decided.IsZero() {
		t.Errorf("%+v", states)
	}
}
