package grpcserver_test

import (
	"fmt"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz/extauthztest"
	"tollgate/testdata"
)

// TestScripts runs the script of every API over plain gRPC, so that each pair of store (embedded, a
// real Redis), limits (leased, exact) and encoding of headers is there once.
func TestScripts(t *testing.T) {
	for _, api := range testdata.APIs() {
		t.Run(api, func(t *testing.T) {
			file, entries, blocks := extauthztest.APIFiles(t, api)
			s := extauthztest.NewStack(t, nil, file)
			client := authv3.NewAuthorizationClient(s.Dial(t))
			for _, c := range []struct {
				backend, encoding string
				exact             bool
			}{
				{"embedded", "headers", false}, {"redis", "headers", true}, {"redis", "header_map", false}, {"embedded", "header_map", true},
			} {
				s.Exact = c.exact
				extauthztest.RunScriptOn(t, c.backend, fmt.Sprintf("%s,exact=%v", c.encoding, c.exact), s, entries, blocks, func(t *testing.T, b *testdata.Block) *extauthztest.Answer {
					return extauthztest.AskGRPC(t, client, b, c.encoding)
				})
			}
		})
	}
}
