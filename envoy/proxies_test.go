package envoy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
	"tollgate/extauthz/httpserver"
	"tollgate/policy/connect/redistest"
	"tollgate/testdata"
)

// otherProxy is a real nginx, Caddy or Traefik in front of a stack and an
// application.
type otherProxy struct {
	name     string
	addr     string
	stack    *extauthztest.Stack
	protocol bool          // it takes PROXY protocol, so requests can come from anywhere
	grpc     bool          // it asks over gRPC
	end      func() string // ends it and returns all that it has logged

	tollgate, application *fault // where the setup says faulty
}

// proxySetup says what stands around a proxy where it is not the usual: a stack and
// an application that says what it received.
type proxySetup struct {
	tollgate    string                     // the address that is asked
	application string                     // the address that allowed requests go to
	edit        func(config string) string // what the operator changed in our file
	environment []string
	without     map[string]string // proxies that cannot do this, and why
	faulty      bool              // something stands before both that can answer in their place
	patient     bool              // a loaded test machine must not make answers late
	concurrent  bool              // the test ends the requests that it has sent
}

// eachOtherProxy runs a test behind nginx, behind every Caddy that is here, which is
// the one on PATH and those of envoy/http/fetch-caddy.sh, and behind Traefik.
func eachOtherProxy(t *testing.T, setup proxySetup, test func(t *testing.T, p *otherProxy)) {
	t.Helper()
	run := func(label, path string, start func(*testing.T, string, *proxySetup) *otherProxy) {
		t.Run(label, func(t *testing.T) {
			own := setup
			if why := setup.without[label]; why != "" {
				t.Skip(why)
			}
			test(t, start(t, path, &own))
		})
	}
	if path, ok := program(t, "nginx"); ok {
		run("nginx", path, startNginx)
	}
	if path, ok := program(t, "caddy"); ok {
		run("caddy", path, startCaddy)
	}
	fetched, err := filepath.Glob("../.tools/caddy-*/caddy")
	if err != nil {
		t.Fatal(err)
	}
	if len(fetched) == 0 && strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "new-caddy") {
		t.Fatal("no .tools/caddy-*/caddy: run `make caddy`")
	}
	for _, path := range fetched {
		run(filepath.Base(filepath.Dir(path)), path, startCaddy)
	}
	if path, ok := program(t, "traefik"); ok {
		run("traefik", path, startTraefik)
	}
}

// differs says why a block cannot be compared behind this proxy, "" if it can. It is
// the one list of what nginx and Caddy do not do as Envoy does.
func (p *otherProxy) differs(b *testdata.Block) string {
	switch {
	case b.GRPC() && !b.Allowed():
		return "a denial for a gRPC client is made by Envoy alone; here it is the API's plain HTTP answer"
	case !p.protocol && (strings.HasPrefix(b.Name, "from the office") || strings.HasPrefix(b.Name, "from elsewhere")):
		return "without PROXY protocol, which this Caddy lacks, every request comes from the loopback"
	case p.name == "traefik" && strings.Contains(b.Target, "?"):
		return "Traefik cannot take a key out of the query"
	case p.name == "traefik" && (strings.Contains(b.Target, "//") || strings.Contains(b.Target, "..")):
		return "Traefik mends such a path before it asks, and sends the application the path that it asked about"
	case p.name == "caddy" && b.Name == "query key among others, byte for byte":
		return "Caddy drops empty pairs (&&) when it takes a key out; a query without a key passes as it is"
	}
	return ""
}

// TestScriptBehindOtherProxies runs the script of the API with the most places for a
// key through the configurations that we ship for nginx and Caddy.
func TestScriptBehindOtherProxies(t *testing.T) {
	eachOtherProxy(t, proxySetup{concurrent: true}, func(t *testing.T, p *otherProxy) {
		_, entries, blocks := extauthztest.APIFiles(t, "pixelmagic")
		kept := blocks[:0]
		for _, b := range blocks {
			if why := p.differs(&b); why != "" {
				t.Logf("%s: left out: %s: %s", p.name, b.Name, why)
				continue
			}
			if p.name == "traefik" && b.Allowed() {
				b.WantHeaders = nil // it cannot add headers to the answer of an allowed request
			}
			kept = append(kept, b)
		}
		if len(kept) < 60 {
			t.Errorf("%s: only %d of %d blocks", p.name, len(kept), len(blocks))
		}
		extauthztest.RunScriptOn(t, "embedded", p.name, p.stack, entries, kept, p.ask)
	})
}

// stand builds what the setup does not bring: a stack that is also asked over HTTP, and an
// application.
func (p *otherProxy) stand(t *testing.T, setup *proxySetup) {
	t.Helper()
	file, _, _ := extauthztest.APIFiles(t, "pixelmagic")
	if !setup.concurrent {
		file = anyNumberAtOnce(file)
	}
	p.stack = extauthztest.NewStack(t, nil, file)
	overHTTP := extauthztest.ServeHTTP(t, p.stack, httpserver.Config{Trusted: extauthztest.Loopback()})
	if setup.tollgate == "" {
		setup.tollgate, setup.patient = overHTTP, true
		if p.grpc {
			setup.tollgate = p.stack.Addr
		}
	}
	if setup.application == "" {
		upstream, err := envoytest.Serve("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = upstream.Close() })
		setup.application = upstream.Addr()
	}
	if setup.faulty {
		p.tollgate, p.application = newFault(t, setup.tollgate), newFault(t, setup.application)
		setup.tollgate, setup.application = p.tollgate.addr, p.application.addr
	}
	if setup.edit == nil {
		setup.edit = func(config string) string { return config }
	}
}

func startNginx(t *testing.T, path string, setup *proxySetup) *otherProxy {
	p := &otherProxy{name: "nginx", protocol: true, addr: "127.0.0.1:" + redistest.FreePort(t)}
	p.stand(t, setup)
	dir := extauthztest.ShortFolder(t)
	if err := os.Chmod(dir, 0o755); err != nil { // its workers are another user, and write long bodies there
		t.Fatal(err)
	}
	config := shippedConfig(t, "nginx.conf", setup, map[string]string{
		"/run/nginx.pid":   dir + "/pid",
		"/dev/stdout":      "/dev/stderr", // stdout cannot be opened again: it is a pipe of ours
		"listen 10000;":    "listen " + p.addr + " proxy_protocol; set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;",
		"worker_processes": "daemon off; worker_processes",
		"http {":           "http { client_body_temp_path " + dir + "/1; proxy_temp_path " + dir + "/2; fastcgi_temp_path " + dir + "/3; uwsgi_temp_path " + dir + "/4; scgi_temp_path " + dir + "/5;",
	})
	file := extauthztest.WriteFile(t, filepath.Join(dir, "nginx.conf"), config)
	p.run(t, exec.Command(path, "-p", dir, "-e", "stderr", "-c", file))
	return p
}

func startCaddy(t *testing.T, path string, setup *proxySetup) *otherProxy {
	p := &otherProxy{name: "caddy", addr: "127.0.0.1:" + redistest.FreePort(t)}
	p.stand(t, setup)
	dir := extauthztest.ShortFolder(t)
	config := shippedConfig(t, "Caddyfile", setup, map[string]string{
		"http://api.pixelmagicai.com:10000 {": "http://api.pixelmagicai.com:" + p.addr[strings.LastIndexByte(p.addr, ':')+1:] + " {\n\tbind 127.0.0.1",
	})
	file := extauthztest.WriteFile(t, filepath.Join(dir, "Caddyfile"), config)
	cmd := exec.Command(path, "run", "--adapter", "caddyfile", "--config", file)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOME="+dir)
	cmd.Env = append(cmd.Env, setup.environment...)
	p.run(t, cmd)
	return p
}

func startTraefik(t *testing.T, path string, setup *proxySetup) *otherProxy {
	p := &otherProxy{name: "traefik", protocol: true, addr: "127.0.0.1:" + redistest.FreePort(t)}
	p.stand(t, setup)
	dir := extauthztest.ShortFolder(t)
	config := shippedConfig(t, "traefik.yaml", setup, nil)
	file := extauthztest.WriteFile(t, filepath.Join(dir, "traefik.yaml"), config)
	p.run(t, exec.Command(path, "--entrypoints.web.address="+p.addr, "--entrypoints.web.proxyprotocol.trustedips=127.0.0.1",
		"--providers.file.filename="+file, "--global.checknewversion=false", "--global.sendanonymoususage=false",
		"--accesslog=true", "--accesslog.fields.names.RequestPath=drop", "--accesslog.fields.headers.defaultmode=drop"))
	extauthztest.Eventually(t, "traefik has its routes", func() bool {
		r := &envoytest.Request{Method: "GET", Target: "/", Host: "api.pixelmagicai.com"}
		return p.send(t, r).Status != 404
	})
	return p
}

// program finds a program, or skips what needs it, loudly, or fails where CI says
// that it must be there.
func program(t *testing.T, name string) (string, bool) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path, true
	}
	problem := name + " is not on PATH: apt-get install " + name
	if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), name) {
		t.Fatal(problem)
	}
	t.Logf("SKIPPED, NOT TESTED: %s", problem)
	return "", false
}

// shippedConfig returns a file of envoy/http with the setup's addresses, and with
// every one of these texts replaced.
func shippedConfig(t *testing.T, name string, setup *proxySetup, replace map[string]string) []byte {
	t.Helper()
	data, err := os.ReadFile("../envoy/http/" + name)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "\n\n") // the head comment names the same addresses
	exchange := func(from, to string) {
		if !strings.Contains(text, from) {
			t.Fatalf("%s has no %q", name, from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	for _, timeout := range []string{"proxy_read_timeout 1s", "response_header_timeout 1s"} {
		if setup.patient {
			text = strings.ReplaceAll(text, timeout, strings.TrimSuffix(timeout, "1s")+extauthztest.Limit.String())
		}
	}
	exchange("127.0.0.1:9003", setup.tollgate)
	exchange("127.0.0.1:8080", setup.application)
	for from, to := range replace {
		exchange(from, to)
	}
	return []byte(setup.edit(text))
}

// run starts the proxy and waits until it listens.
func (p *otherProxy) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	output := &extauthztest.Logs{}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	p.end = sync.OnceValue(func() string {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		return output.String()
	})
	t.Cleanup(func() {
		if log := p.end(); t.Failed() {
			t.Logf("%s said:\n%s", p.name, log)
		}
	})
	extauthztest.Eventually(t, p.name+" listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended", p.name)
		default:
		}
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (p *otherProxy) send(t *testing.T, r *envoytest.Request) *envoytest.Response {
	t.Helper()
	resp, err := r.SendH1(extauthztest.Within(t), p.addr, p.protocol)
	if err != nil {
		t.Fatalf("%s: %s %s: %v", p.name, r.Method, r.Target, err)
	}
	return resp
}

func (p *otherProxy) ask(t *testing.T, b *testdata.Block) *extauthztest.Answer {
	t.Helper()
	r := &envoytest.Request{Method: b.Method, Target: b.Target, Source: b.Source, Host: b.Host()}
	for _, h := range b.Headers {
		if !strings.EqualFold(h[0], "host") {
			r.Headers = append(r.Headers, h)
		}
	}
	before := len(p.stack.Log.String())
	resp := p.send(t, r)
	got := &extauthztest.Answer{Status: resp.Status, Headers: resp.Headers, Body: string(resp.Body)}
	var echo envoytest.Received
	if json.Unmarshal(resp.Body, &echo) == nil && echo.Method != "" {
		got.Reached, got.Upstream = true, &echo
		if p.name == "caddy" { // this one sends the headers without a value as empty ones
			kept := echo.Headers[:0]
			for _, h := range echo.Headers {
				if h[1] != "" {
					kept = append(kept, h)
				}
			}
			echo.Headers = kept
		}
	}
	if b.Method == "HEAD" {
		got.Reached = resp.Status < 400
	}
	got.Meta = lastDecision(p.stack.Log.String()[before:])
	return got
}

// lastDecision returns the fields of the newest decision in a log.
func lastDecision(log string) map[string]string {
	meta := map[string]string{}
	for line := range strings.Lines(log) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["decision_id"] != nil {
			clear(meta)
			for name, value := range fields {
				meta[name] = fmt.Sprint(value)
			}
		}
	}
	return meta
}

// What a client sends by the names of the proxy's own words changes nothing.
func TestForgedWordsBehindOtherProxies(t *testing.T) {
	forged := [][2]string{
		{"X-Original-URI", "/health"}, {"X-Original-Method", "GET"}, {"X-Forwarded-Uri", "/health"},
		{"X-Forwarded-Method", "GET"}, {"X-Forwarded-Host", "other.example.com"}, {"X-Tollgate-Place", "api=other"},
		{"X-Tollgate-Target", "/health"}, {"X-Tollgate-Status", "200"}, {"X-Consumer-ID", "forged"},
		{"X-Consumer-Plan", "forged"}, {"X-Real-IP", "198.51.100.7"}, {"X-Forwarded-For", "198.51.100.7"},
		{"X-Envoy-External-Address", "198.51.100.7"}, {"X-Envoy-Auth-Failure-Mode-Allowed", "true"}, {"X_Consumer_Id", "forged"},
	}
	eachOtherProxy(t, proxySetup{}, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		r := &envoytest.Request{Method: "GET", Target: "/v1/models", Host: "api.pixelmagicai.com", Headers: forged}
		if resp := p.send(t, r); resp.Status != 401 {
			t.Errorf("%s: without a key: %d %s", p.name, resp.Status, resp.Body)
		}
		r.Target = "/health" // public
		resp := p.send(t, r)
		var echo envoytest.Received
		if err := json.Unmarshal(resp.Body, &echo); err != nil || echo.Path != "/health" {
			t.Errorf("%s: a public route: %d %s", p.name, resp.Status, resp.Body)
		}
		for _, h := range echo.Headers {
			if h[1] == "forged" || strings.Contains(h[0], "failure-mode") && h[1] != "" {
				t.Errorf("%s: %s: %s reached the application", p.name, h[0], h[1])
			}
		}
	})
}

// Without Tollgate nobody passes.
func TestOtherProxiesWithoutTollgate(t *testing.T) {
	eachOtherProxy(t, proxySetup{}, func(t *testing.T, p *otherProxy) {
		ctx, cancel := context.WithTimeout(t.Context(), extauthztest.Limit)
		p.stack.HTTP.Shutdown(ctx)
		cancel()
		resp := p.send(t, &envoytest.Request{Method: "GET", Target: "/health", Host: "api.pixelmagicai.com"})
		if resp.Status < 500 || bytes.Contains(resp.Body, []byte("method")) {
			t.Errorf("%s: %d %s", p.name, resp.Status, resp.Body)
		}
	})
}
