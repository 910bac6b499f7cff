package server

import (
	"strings"
	"testing"
)

// Whoever can reach the HTTP server chooses what is decided about: an address that
// others reach needs a proof of who asks.
func TestAuthzHTTPThatOthersCouldReach(t *testing.T) {
	for _, c := range []struct {
		args    []string
		problem string
	}{
		{[]string{"--authz-http-address", "127.0.0.1:0"}, ""},
		{[]string{"--authz-http-address", "[::1]:0"}, ""},
		{[]string{"--authz-http-address", "localhost:0"}, ""},
		{[]string{"--authz-http-address", "unix:http.sock"}, ""},
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
		var s options
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

func TestAuthzHTTPPeers(t *testing.T) {
	for _, c := range []struct {
		s    options
		want string
	}{
		{options{}, "127.0.0.0/8 ::1/128"},
		{options{tlsClientCA: "ca"}, ""},
		{options{tlsClientCA: "ca", authzHTTPTrusted: "10.1.2.3/8"}, "10.0.0.0/8"},
		{options{authzHTTPTrusted: "::ffff:192.0.2.7, 2001:db8::/32"}, "192.0.2.7/32 2001:db8::/32"},
	} {
		peers, err := c.s.authzHTTPPeers()
		var got []string
		for _, p := range peers {
			got = append(got, p.String())
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q, %v, want %q", c.s, got, err, c.want)
		}
	}
}
