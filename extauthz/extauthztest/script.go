package extauthztest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"tollgate/envoy/envoytest"
	"tollgate/policy/keys/keyfile"
	"tollgate/testdata"
)

// Answer is what a request came to, however it was sent.
type Answer struct {
	Status    int
	Headers   [][2]string
	Body      string
	Reached   bool                // the application
	Upstream  *envoytest.Received // what it received; not known of a HEAD through Envoy
	RequestID string
	Meta      map[string]string
}

// RunScriptOn runs the blocks of a script on one store.
func RunScriptOn(t *testing.T, backend, name string, s *Stack, entries []keyfile.Entry, blocks []testdata.Block, ask func(*testing.T, *testdata.Block) *Answer) {
	t.Run(name+"/"+backend, func(t *testing.T) {
		s.Use(t, NewRedis(t, backend), entries)
		secrets := map[string]string{}
		for _, e := range entries {
			secrets[e.Key.ID] = e.Secret
		}
		for _, b := range blocks {
			s.addTokens(t, secrets, &b)
			if err := b.Expand(secrets, s.Hasher.Handle); err != nil {
				t.Fatal(err)
			}
			for range b.Times - 1 {
				s.endRequests(t)
				s.Clock.Set(b.At)
				if got := ask(t, &b); got.Status != wireStatus(&b, name) {
					t.Fatalf("script.txt:%d: %s: status %d before the last of %d, want %d\n%s", b.Line, b.Name, got.Status, b.Times, b.Status, got.Body)
				}
			}
			s.endRequests(t)
			s.Clock.Set(b.At)
			end := s.beside(t, &b, ask)
			compare(t, &b, ask(t, &b), wireStatus(&b, name))
			end()
		}
		s.endRequests(t) // an entry that came later would be counted with the next store
		s.Log.MustNotHold(t, secrets)
	})
}

// wireStatus is the status that the client sees: Envoy answers a refused gRPC
// call with 200 and a grpc-status.
func wireStatus(b *testdata.Block, protocol string) int {
	if b.GRPC() && (protocol == "h1" || protocol == "h2") {
		return 200
	}
	return b.Status
}

func compare(t *testing.T, b *testdata.Block, got *Answer, status int) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("script.txt:%d: %s: %s", b.Line, b.Name, fmt.Sprintf(format, args...))
	}
	if got.Status != status {
		fail("status %d, want %d: %s", got.Status, status, got.Body)
	}
	if got.Reached != b.Allowed() {
		fail("reached the application: %v", got.Reached)
	}
	if b.WantBody != nil {
		if want := strings.ReplaceAll(*b.WantBody, "${request_id}", got.RequestID); got.Body != want {
			fail("body\n %s, want\n %s", got.Body, want)
		}
	}
	wanted(fail, "header", b.WantHeaders, func(name string) (string, bool) { return joined(got.Headers, name) })
	wanted(fail, "metadata", b.WantMeta, func(name string) (string, bool) { v, ok := got.Meta[name]; return v, ok })
	if got.Meta["decision_id"] == "" {
		fail("no decision_id in the metadata: %v", got.Meta)
	}
	if got.Upstream != nil {
		wanted(fail, "upstream", b.WantUpstream, func(name string) (string, bool) {
			if name == ":path" {
				return got.Upstream.Path, true
			}
			return got.Upstream.Value(name)
		})
	}
}

func wanted(fail func(string, ...any), kind string, wants []testdata.Want, get func(string) (string, bool)) {
	for _, w := range wants {
		value, present := get(w.Name)
		switch {
		case w.Absent && present:
			fail("%s %s: %q, want none", kind, w.Name, value)
		case !w.Absent && !present:
			fail("%s %s is missing, want %q", kind, w.Name, w.Value)
		case !w.Absent && value != w.Value:
			fail("%s %s: %q, want %q", kind, w.Name, value, w.Value)
		}
	}
}

func joined(headers [][2]string, name string) (string, bool) {
	var values []string
	for _, h := range headers {
		if strings.EqualFold(h[0], name) {
			values = append(values, h[1])
		}
	}
	return strings.Join(values, ","), values != nil
}

// newRequestID stands in for the x-request-id that Envoy would have made.
func newRequestID() string { return fmt.Sprintf("5f0c1a3e-0f63-4c0a-9d43-%012x", rand.Int64N(1<<48)) }

// checkRequest builds the message that Envoy would send for a block.
func checkRequest(b *testdata.Block, id, encoding string) (*authv3.CheckRequest, [][2]string) {
	client := [][2]string{}
	for _, h := range b.Headers {
		name := strings.ToLower(h[0])
		switch name {
		case "host", "x-request-id", "x-envoy-external-address":
			continue
		}
		client = append(client, [2]string{name, strings.Trim(h[1], " \t")})
	}
	client = append(client,
		[2]string{"x-request-id", id},
		[2]string{"x-envoy-external-address", b.Source.Unmap().String()},
		[2]string{"x-forwarded-for", b.Source.Unmap().String()})
	http := &authv3.AttributeContext_HttpRequest{
		Id: "1", Method: b.Method, Path: b.Target, Host: b.Host(), Scheme: "http", Protocol: "HTTP/1.1",
	}
	if encoding == "headers" {
		http.Headers = map[string]string{":path": b.Target, ":method": b.Method, ":authority": b.Host()}
		for _, h := range client {
			value, _ := joined(client, h[0])
			http.Headers[h[0]] = legible(value)
		}
	} else {
		http.HeaderMap = &corev3.HeaderMap{}
		for _, h := range client {
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
		}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:  &authv3.AttributeContext_Peer{Address: SocketAddress(b.Source)},
		Request: &authv3.AttributeContext_Request{Http: http},
	}}, client
}

// legible is what Envoy makes of bytes that are not UTF-8.
func legible(s string) string {
	var out strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			out.WriteByte('!')
		} else {
			out.WriteString(s[:n])
		}
		s = s[n:]
	}
	return out.String()
}

// AskGRPC sends a block without an Envoy and does to the request what Envoy
// would do with the reply.
func AskGRPC(t *testing.T, client authv3.AuthorizationClient, b *testdata.Block, encoding string) *Answer {
	t.Helper()
	id := newRequestID()
	req, headers := checkRequest(b, id, encoding)
	resp, err := client.Check(Within(t), req)
	if err != nil {
		t.Fatalf("script.txt:%d: %s: %v", b.Line, b.Name, err)
	}
	got := &Answer{RequestID: id, Meta: map[string]string{}}
	for name, value := range resp.GetDynamicMetadata().GetFields() {
		got.Meta[name] = value.GetStringValue()
	}
	if denied := resp.GetDeniedResponse(); resp.GetStatus().GetCode() != 0 {
		got.Status, got.Body = int(denied.GetStatus().GetCode()), denied.GetBody()
		if b.Method == "HEAD" {
			got.Body = ""
		}
		got.Headers = overwrite(t, nil, denied.GetHeaders())
		return got
	}
	ok := resp.GetOkResponse()
	got.Status, got.Reached = 200, true
	got.Headers = overwrite(t, nil, ok.GetResponseHeadersToAdd())
	got.Upstream = &envoytest.Received{Method: b.Method, Path: b.Target, Host: b.Host()}
	for _, h := range overwrite(t, headers, ok.GetHeaders()) {
		switch {
		case h[0] == ":path":
			got.Upstream.Path = h[1]
		case !ContainsFold(ok.GetHeadersToRemove(), h[0]):
			got.Upstream.Headers = append(got.Upstream.Headers, h)
		}
	}
	return got
}

// ContainsFold reports whether a list has a name, in any case.
func ContainsFold(list []string, name string) bool {
	for _, l := range list {
		if strings.EqualFold(l, name) {
			return true
		}
	}
	return false
}

// overwrite applies header options, and holds each to the one form that means
// the same to every Envoy.
func overwrite(t *testing.T, headers [][2]string, options []*corev3.HeaderValueOption) [][2]string {
	t.Helper()
	for _, o := range options {
		name, value := o.GetHeader().GetKey(), o.GetHeader().GetValue()
		//lint:ignore SA1019 Envoy 1.36 to 1.40 decide by this field alone
		if o.GetAppend() == nil || o.GetAppend().GetValue() || o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("header %s is not simply overwritten: %v", name, o)
		}
		kept := make([][2]string, 0, len(headers)+1)
		for _, h := range headers {
			if !strings.EqualFold(h[0], name) {
				kept = append(kept, h)
			}
		}
		headers = append(kept, [2]string{strings.ToLower(name), value})
	}
	return headers
}
