package grpcserver_test

import (
	"fmt"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/extauthz/extauthztest"
	"tollgate/testdata"
)

// TestScripts runs the script of every API over plain gRPC, on the embedded store and on
// a real Redis, with leased limits and with exact ones.
func TestScripts(t *testing.T) {
	for _, api := range testdata.APIs() {
		t.Run(api, func(t *testing.T) {
			file, entries, blocks := extauthztest.APIFiles(t, api)
			s := extauthztest.NewStack(t, nil, file)
			client := authv3.NewAuthorizationClient(s.Dial(t))
			for _, s.Exact = range []bool{false, true} {
				for _, encoding := range []string{"headers", "header_map"} {
					extauthztest.RunScript(t, fmt.Sprintf("%s,exact=%v", encoding, s.Exact), s, entries, blocks, func(t *testing.T, b *testdata.Block) *extauthztest.Answer {
						return extauthztest.AskGRPC(t, client, b, encoding)
					})
				}
			}
		})
	}
}
