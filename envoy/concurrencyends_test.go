package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/limits"
)

// withRoutes puts the routes that requests end by before the shipped one.
func withRoutes(t *testing.T) func(string) string {
	const others = "            - name: other\n              domains: [\"*\"]\n              routes:\n"
	return replace(t, others, others+`              - match: {path: /items/timeout}
                route: {cluster: upstream, timeout: 0.1s}
              - match: {path: /items/local}
                direct_response: {status: 418}
              - match: {path: /items/retried}
                route: {cluster: upstream, retry_policy: {retry_on: 5xx, num_retries: 2}}
              - match: {path: /items/redirect}
                route: {cluster: upstream, internal_redirect_policy: {max_internal_redirects: 1}}
              - match: {path: /items/socket}
                route: {cluster: upstream, timeout: 0s, upgrade_configs: [{upgrade_type: websocket}]}
              - match: {path: /items/stream}
                route: {cluster: upstream, timeout: 0s}
`)
}

// However a request ends, the slot that it held is free soon, and no other is taken or freed.
func TestEveryEndReleasesItsSlot(t *testing.T) {
	for _, concurrency := range []string{"", "concurrency: {request_id: trusted}"} {
		for _, version := range envoyVersions() {
			t.Run(fmt.Sprintf("envoy-%s %s", version, concurrency), func(t *testing.T) {
				u := newCrowd(t, crowdSettings{version: version, n: 2, concurrency: concurrency, edit: withRoutes(t)})
				stays := u.start(t, 0, "/items/slow", "stays")
				for name, end := range u.ends() {
					u.free(t, name)
					end(t, name)
					u.free(t, name)
				}
				if n := u.app.held("retried").visits.Load(); n != 3 {
					t.Errorf("the application was tried %d times, want 3", n)
				}
				stays.answered()
				u.nothingLeft(t)
			})
		}
	}
}

// free waits until one slot is in use.
func (u *crowd) free(t *testing.T, name string) {
	t.Helper()
	extauthztest.Eventually(t, "the slot of "+name, func() bool { return u.inUse(t, 0) == 1 })
}

// ends are how a request can end; each is given its name.
func (u *crowd) ends() map[string]func(t *testing.T, name string) {
	answered := func(status int) func(*testing.T, string) {
		return func(t *testing.T, name string) {
			if got := u.ask(t, 0, "/items/"+name+"?"+name); got.status != status {
				t.Errorf("%s: %d %s, want %d", name, got.status, got.body, status)
			}
		}
	}
	return map[string]func(t *testing.T, name string){
		"fast": answered(200), "broken": answered(503), "reset": answered(503), "timeout": answered(504), "local": answered(418), "retried": answered(503),
		"hang-up": func(t *testing.T, name string) {
			r := u.start(t, 0, "/items/slow", name)
			u.full(t)
			r.leave()
			<-r.ended
		},
		"hang-up h2": func(t *testing.T, name string) {
			ctx, leave := context.WithCancel(extauthztest.Within(t))
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = u.h2("/items/slow?h2", "").SendH2(ctx, u.edges[0].envoy.Addr(), false)
			}()
			<-u.app.held("h2").arrived
			u.full(t)
			leave()
			<-ended
		},
		"socket": func(t *testing.T, name string) {
			conn := u.socket(t, name)
			u.full(t)
			u.app.held(name).end()
			_, _ = io.Copy(io.Discard, conn)
		},
		"stream": func(t *testing.T, name string) {
			ended := u.stream(t, name)
			u.full(t)
			u.app.held(name).end()
			if err := <-ended; err != nil {
				t.Errorf("stream: %v", err)
			}
		},
	}
}

// full sees that the key of two has both under way.
func (u *crowd) full(t *testing.T) {
	t.Helper()
	u.refused(t, 0)
	if n := u.inUse(t, 0); n != 2 {
		t.Errorf("%d slots in use, want 2", n)
	}
}

func (u *crowd) h2(target, contentType string) *envoytest.Request {
	r := &envoytest.Request{Method: "GET", Target: target, Host: "small.test", Headers: [][2]string{{"authorization", "Bearer " + u.secrets[0]}}}
	if contentType != "" {
		r.Method, r.Headers = "POST", append(r.Headers, [2]string{"content-type", contentType}, [2]string{"te", "trailers"})
	}
	return r
}

// stream opens a gRPC call over HTTP/2, which lasts.
func (u *crowd) stream(t *testing.T, name string) (ended chan error) {
	t.Helper()
	ended = make(chan error, 1)
	ctx := extauthztest.Within(t)
	go func() {
		resp, err := u.h2("/items/stream?"+name, "application/grpc").SendH2(ctx, u.edges[0].envoy.Addr(), false)
		if err == nil && resp.Status != 200 {
			err = fmt.Errorf("status %d", resp.Status)
		}
		ended <- err
	}()
	select {
	case <-u.app.held(name).arrived:
	case err := <-ended:
		t.Fatalf("the stream has ended: %v", err)
	}
	return ended
}

// socket opens a WebSocket.
func (u *crowd) socket(t *testing.T, name string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", u.edges[0].envoy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(extauthztest.Limit))
	head := "GET /items/socket?" + name + " HTTP/1.1\r\nHost: small.test\r\nAuthorization: Bearer " + u.secrets[0] + "\r\n"
	for _, h := range plainWebSocket() {
		head += h[0] + ": " + h[1] + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	return conn
}

// waiting is a Spender that waits after each spend for as long as the test wants.
type waiting struct {
	extauthz.Spender
	hold func(limitID, slot string, hold time.Duration)
	on   atomic.Bool
	took chan struct{} // gets one value for each spend that waits
}

func (w *waiting) Try(s *limits.Spend, into *limits.Result) bool { return w.Spender.Try(s, into) }

func (w *waiting) Spend(ctx context.Context, s *limits.Spend) (limits.Result, error) {
	res, err := w.Spender.Spend(ctx, s)
	if w.on.Load() {
		w.took <- struct{}{}
		<-ctx.Done()
	}
	return res, err
}

func (w *waiting) Hold(limitID, slot string, hold time.Duration) { w.hold(limitID, slot, hold) }

// A client who leaves during the check, or within a moment of our answer, which Envoy then does not
// read, holds nothing. Of the second only the access log tells, by the request's id.
func TestHangUpAroundTheCheck(t *testing.T) {
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			w, log := &waiting{took: make(chan struct{}, 1)}, &observed{}
			u := newCrowd(t, crowdSettings{version: version, n: 1000, concurrency: "concurrency: {request_id: trusted}", config: func(c *extauthz.Config) {
				w.Spender, c.Observer = c.Limits, log
				w.hold = c.Limits.(interface {
					Hold(limitID, slot string, hold time.Duration)
				}).Hold
				c.Limits = w
			}})
			w.on.Store(true)
			ctx, leave := context.WithCancel(t.Context())
			ended := make(chan response, 1)
			go func() { ended <- u.do(u.request(ctx, 0, "/items/slow?during")) }()
			<-w.took
			if n := u.inUse(t, 0); n != 1 {
				t.Errorf("%d slots in use during the check, want 1", n)
			}
			leave()
			<-ended
			u.nothingLeft(t)
			w.on.Store(false)

			// A check takes some 0.3 ms here. Those who leave before and after it are no loss.
			for i := range 300 {
				conn, err := net.Dial("tcp", u.edges[0].envoy.Addr())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = fmt.Fprintf(conn, "GET /items/slow?%d HTTP/1.1\r\nHost: small.test\r\nAuthorization: Bearer %s\r\n\r\n", i, u.secrets[0])
				<-time.After(rand.N(1500 * time.Microsecond))
				_ = conn.Close()
			}
			u.nothingLeft(t)
			t.Logf("%d of 300 reached the application, %d entries had no metadata", u.app.visits(), log.foreign())
		})
	}
}

// An internal redirect asks twice with one request id: with a single place it neither waits for
// itself nor leaves anything behind.
func TestInternalRedirectWithOnePlace(t *testing.T) {
	for _, version := range envoyVersions() {
		for _, c := range []struct {
			name, concurrency string
			key               bool // in the place that it leads to
			want              int
		}{
			{"trusted ids", "concurrency: {request_id: trusted}", true, 200},
			{"any ids", "", true, 429}, // it is another request, which finds the first under way
			{"the key is gone", "concurrency: {request_id: trusted}", false, 401},
		} {
			t.Run("envoy-"+version+" "+c.name, func(t *testing.T) {
				u := newCrowd(t, crowdSettings{version: version, n: 1, concurrency: c.concurrency, edit: withRoutes(t)})
				u.app.redirect = "http://small.test/items/landed"
				if c.key {
					u.app.redirect += "?api_key=" + u.secrets[0]
				}
				for range 10 {
					if got := u.ask(t, 0, "/items/redirect"); got.status != c.want {
						t.Fatalf("%d %s, want %d", got.status, got.body, c.want)
					}
					u.nothingLeft(t)
				}
			})
		}
	}
}

// swallower is a connection to Tollgate whose answers it cuts off when it is told to: Tollgate has
// answered, and Envoy has not heard of it.
type swallower struct {
	listener net.Listener
	on       atomic.Bool
	cut      atomic.Int64
	work     sync.WaitGroup
}

func newSwallower(t *testing.T, to string) *swallower {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &swallower{listener: l}
	s.work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { s.carry(in, to) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return s
}

func (s *swallower) carry(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	// The headers of an answer wait for what follows them: Envoy tries again only if it has seen
	// nothing of an answer.
	var headers []byte
	for {
		var frame bytes.Buffer
		h, err := http2.ReadFrameHeader(io.TeeReader(out, &frame))
		if err != nil {
			return
		}
		if _, err := io.CopyN(&frame, out, int64(h.Length)); err != nil {
			return
		}
		switch {
		case s.on.Load() && bytes.Contains(frame.Bytes(), []byte("key_small0")): // as the answer of a check has it
			s.on.Store(false)
			s.cut.Add(1)
			return
		case h.Type == http2.FrameHeaders && !h.Flags.Has(http2.FlagHeadersEndStream):
			headers = append(headers, frame.Bytes()...)
			continue
		}
		sent := frame.Bytes()
		if h.Type == http2.FrameHeaders || h.Type == http2.FrameData {
			sent, headers = append(headers, sent...), nil
		}
		if _, err := in.Write(sent); err != nil {
			return
		}
	}
}

// A check that Envoy sends again, because the answer did not arrive, has the slot of the first try
// where the ids of requests are trusted: on the same server, and on another.
func TestRepeatedCheckWithOnePlace(t *testing.T) {
	again := replace(t, "retry_on: connect-failure,refused-stream", "retry_on: reset,connect-failure,refused-stream")
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			u := newCrowd(t, crowdSettings{version: version, n: 1, concurrency: "concurrency: {request_id: trusted}"})
			s := newSwallower(t, u.Addr)
			for name, addresses := range map[string]string{"the same server": s.listener.Addr().String(), "another": s.listener.Addr().String() + "," + u.second(t)} {
				u.edges = []*edge{startEdge(t, version, envoytest.Settings{Bootstrap: []byte(again(string(bootstrap(t)))), Tollgate: addresses, Upstream: u.app.addr()}, u.Stack)}
				before := s.cut.Load()
				s.on.Store(true)
				for i := 0; s.cut.Load() == before; i++ { // until one meets the server behind it
					if got := u.ask(t, 0, "/items/fast"); got.status != 200 {
						t.Fatalf("%s: %d %s", name, got.status, got.body)
					}
					u.nothingLeft(t)
				}
			}
		})
	}
}

// second starts another server on the store.
func (u *crowd) second(t *testing.T) (addr string) {
	t.Helper()
	other := extauthztest.NewStack(t, nil, extauthztest.SmallFile("{name: basic,", "{name: basic, concurrent: 1,", "requests: 5,", "requests: 1000000,",
		"plans:\n", "concurrency: {request_id: trusted}\nplans:\n", "quota_exceeded]", "quota_exceeded, concurrency_exceeded]"))
	other.Join(t, u.store)
	return other.Addr
}

// Who sends the id of another's request releases nothing: Envoy makes each request's id anew; and
// where it is set up to keep what clients send, no id counts unless the policy says that they are
// trusted.
func TestForgedRequestIDReleasesNothing(t *testing.T) {
	preserve := replace(t, "use_remote_address: true", "use_remote_address: true\n          preserve_external_request_id: true")
	for _, version := range envoyVersions() {
		for _, c := range []struct {
			name, concurrency string
			edit              func(string) string
		}{
			{"trusted, made by Envoy", "concurrency: {request_id: trusted}", nil},
			{"kept, and not trusted", "", preserve},
		} {
			t.Run("envoy-"+version+" "+c.name, func(t *testing.T) {
				log := &observed{}
				u := newCrowd(t, crowdSettings{version: version, n: 1, keys: 2, concurrency: c.concurrency, edit: c.edit,
					config: func(config *extauthz.Config) { config.Observer = log }})
				r := u.request(extauthztest.Within(t), 0, "/items/slow?victim")
				r.Header.Set("x-request-id", "11111111-2222-4333-8444-555555555555")
				victim := &under{u.app.held("victim"), nil, make(chan response, 1)}
				go func() { victim.ended <- u.do(r) }()
				<-victim.arrived
				id := u.app.held("victim").id
				for i, headers := range []map[string]string{
					{"Authorization": "Bearer " + u.secrets[1]}, // another key
					{"Authorization": "Bearer " + u.secrets[0]}, // refused: there is one place
					{"Authorization": "Bearer nonsense"}, {},
				} {
					for _, hangUp := range []time.Duration{time.Minute, 200 * time.Microsecond, 500 * time.Microsecond} {
						ctx, cancel := context.WithTimeout(t.Context(), hangUp)
						attack := u.request(ctx, 1, fmt.Sprint("/items/fast?attack", i))
						attack.Header = http.Header{"X-Request-Id": {id}}
						for name, value := range headers {
							attack.Header.Set(name, value)
						}
						u.do(attack)
						cancel()
					}
				}
				last := u.ask(t, 0, "/items/fast")
				log.of(t, last.header.Get("x-request-id")) // and so all before it
				u.SettleSlots(t)
				if n := u.inUse(t, 0); n != 1 {
					t.Errorf("%d slots in use, want that of the victim", n)
				}
				u.refused(t, 0)
				victim.answered()
				u.nothingLeft(t)
			})
		}
	}
}

// Requests that last longer than max_duration are held on by the periodic entries of the access
// log, and end with their last one; without such entries others get their places.
func TestLongRequestsAreHeldOn(t *testing.T) {
	routes, often := withRoutes(t), replace(t, "access_log_flush_interval: 20s", "access_log_flush_interval: 0.3s")
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			u := newCrowd(t, crowdSettings{version: version, n: 2, concurrency: "concurrency: {max_duration: 1s}", edit: func(file string) string { return often(routes(file)) }})
			u.socket(t, "socket")
			ended := u.stream(t, "stream")
			began := time.Now()
			for time.Since(began) < 2500*time.Millisecond {
				u.refused(t, 0)
			}
			counts := u.SlotStats()
			if counts.Held < 8 || counts.Ended > 0 || u.inUse(t, 0) != 2 {
				t.Errorf("%+v", counts)
			}
			u.app.held("socket").end()
			u.app.held("stream").end()
			<-ended
			u.nothingLeft(t)
		})
		t.Run("envoy-"+version+" without periodic entries", func(t *testing.T) {
			u := newCrowd(t, crowdSettings{version: version, n: 1, concurrency: "concurrency: {max_duration: 1s}", edit: routes})
			u.socket(t, "socket")
			u.refused(t, 0)
			u.passes(t, 0)
			if counts := u.SlotStats(); counts.Ended != 1 {
				t.Errorf("%+v, want one that ended by itself", counts)
			}
		})
	}
}

// An Envoy that is gone tells of no end: its requests count until max_duration, and no longer.
func TestEnvoyKilledWithAllUnderWay(t *testing.T) {
	for _, version := range envoyVersions() {
		t.Run("envoy-"+version, func(t *testing.T) {
			const n = 3
			settings := crowdSettings{version: version, n: n, concurrency: "concurrency: {max_duration: 2s}"}
			u := newCrowd(t, settings)
			began := time.Now()
			for i := range n {
				u.start(t, 0, "/items/slow", fmt.Sprint("slow", i))
			}
			taken := time.Now()
			u.edges[0].killed = true
			_ = syscall.Kill(u.edges[0].envoy.PID(), syscall.SIGKILL)
			<-u.edges[0].envoy.Done()
			u.edges = []*edge{u.startEnvoy(t, settings)}
			var all []*under
			for i := range n {
				extauthztest.Eventually(t, "a place", func() bool {
					r, _ := u.try(t, 0, "/items/slow", fmt.Sprint("next", i))
					if r == nil {
						return false
					}
					all = append(all, r)
					return true
				})
				if i == 0 && time.Since(began) < 2*time.Second {
					t.Error("a request passed while all were held")
				}
			}
			t.Logf("all places were free again %v after the last was taken, with max_duration 2s", time.Since(taken))
			u.refused(t, 0)
			for _, r := range all {
				r.answered()
			}
			u.nothingLeft(t)
		})
	}
}
