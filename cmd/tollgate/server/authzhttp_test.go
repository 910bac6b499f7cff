package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// Whoever can reach the HTTP lane chooses what is decided about: an address that
// others reach needs a proof of who asks.
func TestLaneThatOthersCouldReach(t *testing.T) {
	for _, c := range []struct {
		args    []string
		problem string
	}{
		{[]string{"--authz-http-address", "127.0.0.1:0"}, ""},
		{[]string{"--authz-http-address", "[::1]:0"}, ""},
		{[]string{"--authz-http-address", "localhost:0"}, ""},
		{[]string{"--authz-http-address", "unix:lane.sock"}, ""},
		{[]string{"--authz-http-address", "0.0.0.0:0", "--authz-http-trusted", "10.0.0.0/8, 192.0.2.7"}, ""},
		{[]string{"--authz-http-address", ":0", "--tls-client-ca", "ca", "--tls-cert", "c", "--tls-key", "k"}, ""},
		{[]string{"--authz-http-address", "0.0.0.0:0"}, "others can reach"},
		{[]string{"--authz-http-address", ":0"}, "others can reach"},
		{[]string{"--authz-http-address", "192.0.2.1:0"}, "others can reach"},
		{[]string{"--authz-http-address", "proxy.internal:0"}, "others can reach"},
		{[]string{"--authz-http-address", ":0", "--tls-cert", "c", "--tls-key", "k"}, "others can reach"},
		{[]string{"--authz-http-address", "unix:"}, "names no path"},
		{[]string{"--authz-http-address", "localhost"}, "neither HOST:PORT nor unix:PATH"},
		{[]string{"--authz-http-address", "127.0.0.1:0", "--authz-http-trusted", "10.0.0.0/33"}, "neither an address nor a CIDR"},
		{[]string{"--authz-http-address", "127.0.0.1:0", "--authz-http-trusted", "10.0.0.1,"}, "neither an address nor a CIDR"},
		{[]string{"--authz-http-trusted", "10.0.0.0/8"}, "there is no --authz-http-address"},
	} {
		var s settings
		flags := newFlags(&s)
		if err := flags.Parse(append([]string{"--policy", "p"}, c.args...)); err != nil {
			t.Fatal(err)
		}
		err := s.fill(flags)
		if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%q: %v, want %q", c.args, err, c.problem)
		}
	}
}

func TestLanePeers(t *testing.T) {
	for _, c := range []struct {
		s    settings
		want string
	}{
		{settings{}, "127.0.0.0/8 ::1/128"},
		{settings{tlsClientCA: "ca"}, ""},
		{settings{tlsClientCA: "ca", laneTrusted: "10.1.2.3/8"}, "10.0.0.0/8"},
		{settings{laneTrusted: "::ffff:192.0.2.7, 2001:db8::/32"}, "192.0.2.7/32 2001:db8::/32"},
	} {
		peers, err := c.s.lanePeers()
		var got []string
		for _, p := range peers {
			got = append(got, p.String())
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q, %v, want %q", c.s, got, err, c.want)
		}
	}
}

// The lane is served on TCP and on a unix socket, and ends with the server.
func TestServeOverHTTP(t *testing.T) {
	socket := shortDir(t) + "/lane"
	for _, address := range []string{"127.0.0.1:0", "unix:" + socket} {
		r := start(t, "--authz-http-address", address)
		var chosen struct {
			Lane string `json:"authz_http"`
		}
		if err := json.Unmarshal([]byte(r.addresses(t)), &chosen); err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			network, to := "tcp", chosen.Lane
			if path, ok := strings.CutPrefix(to, unixPrefix); ok {
				network, to = "unix", path
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		}}}
		res, err := client.Get("http://lane/envoy/api=pixelbyte/v1/models")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 401 || !strings.Contains(string(body), `"code":"UNAUTHORIZED"`) {
			t.Errorf("%s: %d %s", address, res.StatusCode, body)
		}
		r.end(t)
		if _, err := client.Get("http://lane/envoy/api=pixelbyte/v1/models"); err == nil {
			t.Errorf("%s: answered after its end", address)
		}
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is still there")
	}
}
