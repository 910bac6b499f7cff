package envoy_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"tollgate/envoy"
	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// upgrader is an application that switches to every protocol that it is asked for,
// as a stock h2c server does to its own.
type upgrader struct {
	addr string
	mu   sync.Mutex
	to   []string
}

func newUpgrader(t *testing.T) *upgrader {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upgrader{addr: l.Addr().String()}
	server := &http.Server{Handler: u}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return u
}

func (u *upgrader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked := r.Header.Values("Upgrade")
	if len(asked) == 0 {
		_, _ = fmt.Fprintln(w, "plain")
		return
	}
	u.mu.Lock()
	u.to = append(u.to, strings.Join(asked, "+"))
	u.mu.Unlock()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", asked[0])
	if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
		_, _ = fmt.Fprintf(conn, "tunnel %s", line)
	}
}

// asked returns and forgets what the application was asked to switch to.
func (u *upgrader) asked() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	to := strings.Join(u.to, " ")
	u.to = nil
	return to
}

// upgrades are ways to ask for another protocol. Each name is the protocol that an
// application could understand.
func upgrades() map[string][][2]string {
	websocket := [][2]string{{"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}}
	with := func(connection string, upgrade ...string) [][2]string {
		headers := [][2]string{{"Connection", connection}}
		for _, u := range upgrade {
			headers = append(headers, [2]string{"Upgrade", u})
		}
		return append(headers, websocket...)
	}
	h2c := [2]string{"HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"}
	return map[string][][2]string{
		"h2c":                       append(with("Upgrade, HTTP2-Settings", "h2c"), h2c),
		"h2c, lower case":           append(with("keep-alive, upgrade, http2-settings", "h2c"), h2c),
		"h2c without settings":      with("Upgrade", "h2c"),
		"h2c, then websocket":       with("Upgrade", "h2c, websocket"),
		"h2c and websocket":         with("Upgrade", "h2c", "websocket"),
		"websocket and h2c":         with("Upgrade", "websocket", "h2c"),
		"websocket with a version":  with("Upgrade", "websocket/13"),
		"TLS":                       with("Upgrade", "TLS/1.2"),
		"anything":                  with("Upgrade", "anything"),
		"upgrade without its token": with("keep-alive", "h2c"),
	}
}

func plainWebSocket() [][2]string {
	return [][2]string{{"Connection", "Upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}}
}

// A connection that has changed its protocol is asked about once, and whatever it
// carries after that would pass unasked. So no upgrade reaches the application.
func TestNoUpgradeBehindAnyProxy(t *testing.T) {
	application := newUpgrader(t)
	eachProxy(t, proxySetup{application: application.addr}, func(t *testing.T, p *otherProxy) {
		p.upgradesNothing(t, application)
	})
}

// Istio and Envoy Gateway allow WebSockets for a whole listener; envoy/README.md has
// what takes that back.
func TestWebSocketsOfAListenerAreTakenBackByItsRoutes(t *testing.T) {
	application := newUpgrader(t)
	setup := proxySetup{application: application.addr, edit: func(config string) string {
		const route = "route: {cluster: upstream"
		config = strings.ReplaceAll(config, route, route+", upgrade_configs: [{upgrade_type: websocket, enabled: false}]")
		return strings.Replace(config, "stat_prefix: ingress\n", "stat_prefix: ingress\n          upgrade_configs: [{upgrade_type: websocket}]\n", 1)
	}}
	p := startEnvoyAs(t, "envoy", &setup)
	p.upgradesNothing(t, application)
}

// upgradesNothing sends every kind of upgrade to a public and a protected route.
func (p *otherProxy) upgradesNothing(t *testing.T, application *upgrader) {
	t.Helper()
	_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
	p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
	all := upgrades()
	all["websocket"] = plainWebSocket()
	for name, headers := range all {
		for target, key := range map[string][][2]string{"/health": nil, "/v1/models": {{"X-API-Key", "pm_DemoAllServices00000000000047l1f4"}}} {
			r := &envoytest.Request{Method: "GET", Target: target, Host: "api.pixelmagicai.com", Headers: append(key, headers...)}
			resp := p.send(t, r)
			if to := application.asked(); resp.Status != 200 && resp.Status/100 != 4 || to != "" {
				t.Errorf("%s to %s: status %d; the application was asked for %q", name, target, resp.Status, to)
			}
		}
	}
}

// What our files have in comments opens one route, and that to WebSockets alone.
func TestOnlyTheOpenedRouteTakesWebSockets(t *testing.T) {
	application := newUpgrader(t)
	setup := proxySetup{application: application.addr, edit: openWebSockets(t)}
	eachProxy(t, setup, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		send := func(target string, headers [][2]string) (status int, asked string) {
			r := &envoytest.Request{Method: "GET", Target: target, Host: "api.pixelmagicai.com", Headers: headers}
			resp, err := r.SendH1(extauthztest.Within(t), p.addr, p.protocol)
			if err != nil {
				t.Fatalf("%s: %v", target, err)
			}
			return resp.Status, application.asked()
		}
		key := [2]string{"X-API-Key", "pm_DemoAllServices00000000000047l1f4"}
		if status, asked := send("/v1/chat/conversations", append(plainWebSocket(), key)); status != 101 || asked != "websocket" {
			t.Errorf("a WebSocket: %d, asked for %q", status, asked)
		}
		if status, asked := send("/v1/chat/conversations?a=b", append(plainWebSocket(), key)); status != 101 || asked != "websocket" {
			t.Errorf("a WebSocket with a query: %d, asked for %q", status, asked)
		}
		if status, asked := send("/v1/chat/conversations", [][2]string{key}); status != 200 || asked != "" {
			t.Errorf("a plain request: %d, asked for %q", status, asked)
		}
		if status, asked := send("/v1/chat/conversations", plainWebSocket()); status != 401 || asked != "" {
			t.Errorf("a WebSocket without a key: %d, asked for %q", status, asked)
		}
		for _, target := range []string{"/health", "/v1/models", "/v1/chat/conversations/x", "/v1/chat/conversations/", "/V1/chat/conversations", "//v1/chat/conversations", "/v1/chat/x/../conversations", "/health?/v1/chat/conversations"} {
			if p.name == "traefik" && (strings.Contains(target, "//") || strings.Contains(target, "..")) {
				continue // Traefik mends these before it asks: they are the opened route
			}
			if status, asked := send(target, append(plainWebSocket(), key)); status == 101 || asked != "" {
				t.Errorf("a WebSocket to %s: %d, asked for %q", target, status, asked)
			}
		}
		for name, headers := range upgrades() {
			if status, asked := send("/v1/chat/conversations", append(headers, key)); asked != "" && asked != "websocket" || status == 101 && asked == "" {
				t.Errorf("%s: %d, asked for %q", name, status, asked)
			}
		}
	})
}

// HTTP/2 opens WebSockets with CONNECT and a :protocol (RFC 8441). No route of a
// policy allows CONNECT, so these stay closed, opened route or not.
func TestNoExtendedConnectBehindAnyProxy(t *testing.T) {
	application := newUpgrader(t)
	open := openWebSockets(t)
	setup := proxySetup{
		application: application.addr,
		edit: func(config string) string {
			return strings.Replace(open(config), "\tadmin off\n", "\tadmin off\n\tservers {\n\t\tprotocols h1 h2c\n\t}\n", 1)
		},
		environment: []string{"GODEBUG=http2xconnect=1"}, // without it Go's servers take none
		without:     map[string]string{"nginx": "nginx knows none", "traefik": "Traefik does not take HTTP/2 without TLS and PROXY protocol"},
	}
	eachProxy(t, setup, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		for _, target := range []string{"/health", "/v1/chat/conversations"} {
			r := &envoytest.Request{Method: "CONNECT", Target: target, Host: "api.pixelmagicai.com", Headers: [][2]string{
				{":protocol", "websocket"}, {"sec-websocket-version", "13"}, {"x-api-key", "pm_DemoAllServices00000000000047l1f4"}}}
			resp, err := r.SendH2(extauthztest.Within(t), p.addr, p.protocol)
			if asked := application.asked(); asked != "" || err == nil && resp.Status < 400 {
				t.Errorf("%s: %v, %v; the application was asked for %q", target, resp, err, asked)
			}
		}
		r := &envoytest.Request{Method: "GET", Target: "/health", Host: "api.pixelmagicai.com"}
		if resp, err := r.SendH2(extauthztest.Within(t), p.addr, p.protocol); err != nil || resp.Status != 200 {
			t.Errorf("HTTP/2 itself: %v, %v", resp, err)
		}
	})
}

// openWebSockets does what envoy/README.md says: it takes the marks off the lines
// that allow WebSockets, or puts the page's route for Envoy before the others, and
// names the path.
func openWebSockets(t *testing.T) func(string) string {
	t.Helper()
	page, err := os.ReadFile("../envoy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, route, ok1 := strings.Cut(string(page), "<!-- websocket -->\n```yaml\n")
	route, _, ok2 := strings.Cut(route, "```\n")
	if !ok1 || !ok2 {
		t.Fatal("envoy/README.md has no route for WebSockets")
	}
	const all, indent = "- match: {prefix: /}\n", "              "
	route = strings.ReplaceAll(strings.TrimSuffix(route, "\n"), "\n", "\n"+indent) + "\n" + indent + all
	return func(config string) string {
		config = strings.ReplaceAll(config, indent+all, indent+route)
		return strings.ReplaceAll(strings.ReplaceAll(config, "#websocket ", ""), "/v1/stream", "/v1/chat/conversations")
	}
}

// eachProxy is eachOtherProxy with Envoy, over gRPC and over HTTP.
func eachProxy(t *testing.T, setup proxySetup, test func(t *testing.T, p *otherProxy)) {
	t.Helper()
	for _, name := range []string{"envoy", "envoy-http"} {
		t.Run(name, func(t *testing.T) {
			own := setup
			test(t, startEnvoyAs(t, name, &own))
		})
	}
	eachOtherProxy(t, setup, test)
}

func startEnvoyAs(t *testing.T, name string, setup *proxySetup) *otherProxy {
	t.Helper()
	binary, err := findEnvoy(envoy.Version())
	if err != nil {
		extauthztest.Require(t, "envoy", err.Error())
	}
	p := &otherProxy{name: name, protocol: true}
	p.grpc = name == "envoy"
	p.stand(t, setup)
	shipped, err := envoy.HTTPBootstrap()
	if p.grpc {
		shipped, err = envoy.Bootstrap()
	}
	if err != nil {
		t.Fatal(err)
	}
	settings := envoytest.Settings{
		Binary: binary, Bootstrap: []byte(setup.edit(string(shipped))), Tollgate: setup.tollgate, Upstream: setup.application,
		ProxyProtocol: true, LogLevel: "info", Dir: t.TempDir(),
	}
	if setup.patient {
		settings.CheckTimeout = extauthztest.Limit
	}
	running, err := envoytest.Start(extauthztest.Within(t), settings)
	if err != nil {
		t.Fatal(err)
	}
	p.addr = running.Addr()
	p.end = func() string {
		if err := running.Stop(); err != nil {
			t.Errorf("envoy: %v", err)
		}
		return running.Log()
	}
	t.Cleanup(func() {
		if log := p.end(); t.Failed() {
			t.Logf("%s said:\n%s", name, log)
		}
	})
	return p
}
