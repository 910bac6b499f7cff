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

	"tollgate/cmd/tollgate/listen"
	"tollgate/cmd/tollgate/tollgatetest"
)

// Proxies are served over HTTP on TCP and on a unix socket, which ends with the server.
func TestServeOverHTTP(t *testing.T) {
	socket := tollgatetest.ShortDir(t) + "/http"
	for _, address := range []string{"127.0.0.1:0", "unix:" + socket} {
		r := start(t, "--authz-http-address", address)
		var chosen struct {
			AuthzHTTP string `json:"authz_http"`
		}
		if err := json.Unmarshal([]byte(r.addresses(t)), &chosen); err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			network, to := "tcp", chosen.AuthzHTTP
			if path, ok := strings.CutPrefix(to, listen.UnixPrefix); ok {
				network, to = "unix", path
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		}}}
		res, err := client.Get("http://x/envoy/api=pixelbyte/v1/models")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 401 || !strings.Contains(string(body), `"code":"UNAUTHORIZED"`) {
			t.Errorf("%s: %d %s", address, res.StatusCode, body)
		}
		r.end(t)
		if _, err := client.Get("http://x/envoy/api=pixelbyte/v1/models"); err == nil {
			t.Errorf("%s: answered after its end", address)
		}
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is still there")
	}
}
