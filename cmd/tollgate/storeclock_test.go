package main

import (
	"io"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
)

// A clock of the store that jumps and returns is in the log with its size and in the metrics, each
// way, and nobody is refused for longer than a window.
func TestClockJumpIsSaid(t *testing.T) {
	mini, dir := miniredis.RunT(t), tollgatetest.ShortDir(t)
	plan := "plans:\n- {name: full, limits: [{name: second, requests: 5, per: second}]}\n"
	tollgatetest.WriteFile(t, dir+"/policy.yaml", append(pixelbyte(t, "policy.yaml"), plan...))
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer client.Close()
	key := keys.Key{ID: "key_full", API: "pixelbyte", Name: "full", Plan: "full", LimitID: "key_full", Status: keys.Active, Version: 1, AnchorDay: 1, CreatedAt: time.Now()}
	if _, err := admin.Seed(t.Context(), store.New(client), []keyfile.Entry{{Key: key, Secret: "pb_DemoFullAccess000000000000040Zm5v"}}, keys.NewHasher(nil)); err != nil {
		t.Fatal(err)
	}
	mini.SetTime(time.Now())
	r := start(t, "--policy", dir+"/policy.yaml", "--store", "redis://"+mini.Addr(), "--deadline", "20s")
	conn, err := grpc.NewClient(r.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	allowed := func(wrong time.Duration) bool {
		mini.SetTime(time.Now().Add(wrong)) // it stands else
		response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Host: "api.pixelbyte.io", Method: "GET", Path: "/v1/models", HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
					{Key: "authorization", RawValue: []byte("Bearer pb_DemoFullAccess000000000000040Zm5v")},
				}},
			}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetOkResponse() != nil
	}
	says := func(sign string) bool { // a busy machine may be late by some seconds
		return regexp.MustCompile(`the store's clock has jumped.* by=` + sign + `(9600h0m|9599h59m5)[0-9.]*s jumps=`).MatchString(r.stderr.String())
	}
	if !allowed(0) {
		t.Fatal("refused before the jump")
	}
	eventually(t, "the jump", func() bool { allowed(9600 * time.Hour); return says("") })
	for allowed(9600 * time.Hour) { // all of a second
	}
	eventually(t, "the return", func() bool { allowed(0); return says("-") })
	eventually(t, "an answer that allows", func() bool { return allowed(0) })
	response, err := http.Get("http://" + r.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !regexp.MustCompile(`(?m)^tollgate_limit_clock_jumps_total [2-9]`).Match(body) {
		t.Errorf("%v\n%s", err, body)
	}
	r.end(t)
}
