package envoy_test

import (
	"bufio"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// What a client writes is text, also where it looks like a placeholder of the proxy:
// the environment and the files of the proxy's machine are none of its business.
func TestPlaceholdersOfClientsStayText(t *testing.T) {
	dir := t.TempDir()
	file := extauthztest.WriteFile(t, filepath.Join(dir, "secret"), []byte("hunter-in-a-file"))
	setup := proxySetup{environment: []string{"TOLLGATE_TEST_PASSWORD=hunter-in-the-environment"}}
	for _, name := range setup.environment {
		key, value, _ := strings.Cut(name, "=")
		t.Setenv(key, value) // for the proxies that take over all of it
	}
	words := []string{
		"{env.TOLLGATE_TEST_PASSWORD}", "{$TOLLGATE_TEST_PASSWORD}", "{file." + file + "}", "{http.request.uri}", "{http.request.header.X-Probe}",
		`\{env.TOLLGATE_TEST_PASSWORD}`, "{{env.TOLLGATE_TEST_PASSWORD}}", "{env.TOLLGATE_TEST_PASSWORD}}", "%7Benv.TOLLGATE_TEST_PASSWORD%7D", "%257Benv.TOLLGATE_TEST_PASSWORD%257D",
		"${TOLLGATE_TEST_PASSWORD}", "$TOLLGATE_TEST_PASSWORD", "$http_x_probe", "{{ env `TOLLGATE_TEST_PASSWORD` }}", "%ENVIRONMENT(TOLLGATE_TEST_PASSWORD)%",
	}
	eachProxy(t, setup, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		reached := 0
		for _, word := range words {
			word = strings.ReplaceAll(word, " ", "")
			for _, r := range []*envoytest.Request{
				{Target: "/health?e=" + word + "&f=g&api_key=pm_DemoAllServices00000000000047l1f4"}, // a public route: the key goes, too
				{Target: "/health?" + word + "=e&f=g&api_key="},
				{Target: "/v1/models?" + word + "&e=" + word + "&f=g&api_key=pm_DemoAllServices00000000000047l1f4"},
				{Target: "/v1/images/" + strings.Trim(word, `\`) + "?e=" + word + "&f=g&api_key=pm_DemoAllServices00000000000047l1f4"},
				{Target: "/health?e=" + word, Headers: [][2]string{{"X-Tollgate-Target", "/" + word}, {"X-Consumer-ID", word}}},
			} {
				r.Method, r.Host = "GET", "api.pixelmagicai.com"
				r.Headers = append(r.Headers, [2]string{"X-Probe", "hunter-in-a-header"}, [2]string{"User-Agent", word})
				resp, err := r.SendH1(extauthztest.Within(t), p.addr, p.protocol)
				if err != nil {
					continue // Traefik hangs up on what is no URL
				}
				echo := received(resp)
				if echo == nil {
					continue // refused, as odd paths are, and keys in the query by Traefik
				}
				reached++
				for _, text := range append(headerValues(echo, "x-probe"), echo.Path) {
					if strings.Contains(text, "hunter") {
						t.Errorf("%s: the application got %s", r.Target, text)
					}
				}
				_, sent, _ := strings.Cut(r.Target, "?")
				_, got, _ := strings.Cut(echo.Path, "?")
				if p.name == "caddy" { // it escapes braces where it took a key out
					sent, got = unescaped(sent), unescaped(got)
				}
				if want, _, _ := strings.Cut(sent, "&api_key="); got != want {
					t.Errorf("%s: the application got the query %q, want %q", r.Target, got, want)
				}
			}
		}
		if reached < len(words) {
			t.Errorf("only %d requests reached the application", reached)
		}
	})
}

func headerValues(echo *envoytest.Received, except string) []string {
	var values []string
	for _, h := range echo.Headers {
		if h[0] != except {
			values = append(values, h[1])
		}
	}
	return values
}

func unescaped(query string) string {
	if plain, err := url.PathUnescape(query); err == nil {
		return plain
	}
	return query
}

// fault stands before a server and can be told to answer in its place.
type fault struct {
	addr     string
	listener net.Listener
	mu       sync.Mutex
	answer   *string // in place of the server's; nil lets everything through
	conns    []net.Conn
}

// newFault returns one that lets everything through.
func newFault(t *testing.T, server string) *fault {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fault{addr: l.Addr().String(), listener: l}
	t.Cleanup(f.refuse)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c, server)
		}
	}()
	return f
}

// serve handles one connection.
func (f *fault) serve(c net.Conn, server string) {
	f.mu.Lock()
	answer := f.answer
	f.conns = append(f.conns, c)
	f.mu.Unlock()
	if answer != nil {
		in := bufio.NewReader(c)
		for line := "-"; strings.TrimSpace(line) != ""; {
			var err error
			if line, err = in.ReadString('\n'); err != nil {
				break
			}
		}
		_, _ = io.WriteString(c, *answer)
		_ = c.Close()
		return
	}
	behind, err := net.Dial("tcp", server)
	if err != nil {
		_ = c.Close()
		return
	}
	f.mu.Lock()
	f.conns = append(f.conns, behind)
	f.mu.Unlock()
	go func() {
		_, _ = io.Copy(behind, c)
		_ = behind.Close()
	}()
	_, _ = io.Copy(c, behind)
	_ = c.Close()
}

// say ends what is under way and answers with this text, and hangs up, from now on.
func (f *fault) say(answer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = &answer
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
}

// refuse takes no connection from now on.
func (f *fault) refuse() {
	f.say("")
	_ = f.listener.Close()
}

// secretRequests hold a key wherever one can stand.
func secretRequests() (requests []*envoytest.Request, secrets []string) {
	const full, other, text = "pm_DemoAllServices00000000000047l1f4", "pm_DemoAnotherKey000000000000014P41h", "pm_DemoTextOnly00000000000000047mo16"
	requests = []*envoytest.Request{
		{Method: "GET", Target: "/v1/models", Headers: [][2]string{{"X-API-Key", full}}},
		{Method: "GET", Target: "/v1/models", Headers: [][2]string{{"Authorization", "Bearer " + other}}},
		{Method: "GET", Target: "/v1/models?a=b&api_key=" + text + "&c=d", Headers: [][2]string{{"Referer", "https://api.pixelmagicai.com/?api_key=" + full}}},
		{Method: "GET", Target: "/health?api_key=" + text},
		{Method: "GET", Target: "/v1/models?api%5fkey=" + strings.Replace(full, "pm_", "%70m_", 1)},
		{Method: "GET", Target: "/nowhere?api_key=pm_not_a_right_one"},
		{Method: "POST", Target: "/v1/generate?api_key=" + full, Body: []byte(strings.Repeat("a long body ", 40_000))},
		{Method: "GET", Target: "/v1/../models?api_key=" + other, Headers: [][2]string{{"Cookie", "api_key=" + full}}},
	}
	for _, r := range requests {
		r.Host = "api.pixelmagicai.com"
	}
	// Without the prefix, which may be escaped.
	return requests, []string{full[3:], other[3:], text[3:], "not_a_right_one"}
}

// sendSecrets sends them all at once. What is answered other tests say; here the
// connection may also just end.
func (p *otherProxy) sendSecrets(t *testing.T) {
	requests, _ := secretRequests()
	var sent sync.WaitGroup
	for _, r := range requests {
		sent.Go(func() { _, _ = r.SendH1(extauthztest.Within(t), p.addr, p.protocol) })
	}
	sent.Wait()
}

// mustHaveKept ends the proxy and looks for keys in all that it and Tollgate logged.
func (p *otherProxy) mustHaveKept(t *testing.T) {
	t.Helper()
	_, secrets := secretRequests()
	own := p.end()
	if !strings.Contains(own, "/v1/models") && !strings.Contains(own, "pixelmagic@file") {
		t.Error("the proxy's log names no request")
	}
	log := own + "\n" + p.stack.Log.String()
	for _, secret := range secrets {
		if at := strings.Index(log, secret); at >= 0 {
			line := log[strings.LastIndexByte(log[:at], '\n')+1:]
			line, _, _ = strings.Cut(line, "\n")
			t.Errorf("a log holds %s: %s", secret, line)
		}
	}
}

// No proxy writes a key down, in whatever state application and Tollgate are. Envoy
// runs at its default level; at debug it writes every header.
func TestNoKeyInAnyLog(t *testing.T) {
	eachProxy(t, proxySetup{faulty: true}, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		p.sendSecrets(t)
		for _, f := range []*fault{p.application, p.tollgate} {
			for _, answer := range []string{
				"",
				"nonsense\r\n\r\n",
				"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
				"HTTP/1.1 200 OK\r\nX-Tollgate-Target: /" + strings.Repeat("x", 1<<18) + "\r\n\r\n",
				"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			} {
				f.say(answer)
				p.sendSecrets(t)
			}
			f.refuse()
			p.sendSecrets(t)
		}
		p.mustHaveKept(t)
	})
}
