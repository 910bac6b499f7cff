package extauthz_test

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"tollgate/envoy"
	"tollgate/extauthz"
	"tollgate/testdata"
)

// oldestOverHTTP is the first line of Envoy that is supported over HTTP: 1.37.0
// gives the headers of a denial away wrongly.
const oldestOverHTTP = "1.38"

// TestScriptsOverHTTP runs the same scripts through Envoys that ask over HTTP.
// Nothing in them is left out: the query is compared byte for byte and the metadata
// field by field, as over gRPC.
func TestScriptsOverHTTP(t *testing.T) {
	shipped, err := envoy.HTTPBootstrap()
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range envoyVersions() {
		if version < oldestOverHTTP {
			continue
		}
		for _, api := range testdata.APIs() {
			t.Run(api+"/envoy-"+version, func(t *testing.T) {
				file, entries, blocks := apiFiles(t, api)
				s := newStack(t, nil, file)
				e := startEnvoy(t, version, shipped, serveLane(t, s, extauthz.LaneConfig{Trusted: loopback()}), s)
				// The stores are told apart over gRPC; here each has one protocol.
				for i, protocol := range []string{"h1", "h2"} {
					runScriptOn(t, backends()[1-i], protocol, s, entries, blocks, func(t *testing.T, b *testdata.Block) *answer {
						return e.ask(t, b, protocol)
					})
				}
			})
		}
	}
}

// laneMetadata takes the text of X-Tollgate-Decision apart.
func laneMetadata(t *testing.T, text string) map[string]string {
	t.Helper()
	meta := map[string]string{}
	for field := range strings.SplitSeq(text, ";") {
		name, value, ok := strings.Cut(field, "=")
		plain, err := url.PathUnescape(value)
		if !ok || err != nil {
			t.Errorf("metadata %q: %v", field, err)
		}
		meta[name] = plain
	}
	return meta
}

func loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// serveLane serves the HTTP lane of a stack on a free port of the loopback.
func serveLane(t *testing.T, s *stack, config extauthz.LaneConfig) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.lane = extauthz.NewLane(s.authorizer, config)
	serveLaneOn(t, s.lane, l)
	return l.Addr().String()
}

func serveLaneOn(t *testing.T, lane *extauthz.Lane, l net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- lane.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		lane.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}
