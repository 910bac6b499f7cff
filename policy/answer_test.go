package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tollgate/policy"
	"tollgate/policy/keys"
)

// speaking is shop with another errors section; answers not named are in it too.
func speaking(t testing.TB, errorsSection string) *policy.Set {
	t.Helper()
	return compiled(t, shop+errorsSection)
}

const envelopeErrors = `
errors:
  dialect: envelope
  request_id: requestId
  answers:
  - {on: [missing_credential], status: 401, code: NO_KEY, message: "No \"key\" \\ given – ü", details: {header: Authorization, b: "x"}}
  - {on: [malformed_credential, unknown_key, revoked_key, wrong_environment, inactive_key], status: 401, code: BAD, message: "Key {key_id} is bad", details: {key_id: "{key_id}"}}
  - {on: [expired_key], status: 401, code: OLD, message: "Expired at {expired_at}", details: {at: "{expired_at}", key: "{key_id}"}}
  - {on: [address_denied], status: 403, code: ADDRESS, message: "Not from {address}"}
  - {on: [scope_denied], status: 403, code: SCOPE, message: "Route {route} needs {scope}"}
  - {on: [route_denied], status: 403, code: ROUTE, message: "No"}
  - {on: [rate_limited, quota_exceeded], status: 429, code: SLOW, message: "{limit}: wait {retry_after} s", details: {retry_after: "{retry_after}", text: "{retry_after} s"}}
  - {on: [undecided], status: 503, code: LATER, message: "Later"}
`

const nestedErrors = `
errors:
  dialect: nested
  answers:
  - {on: [missing_credential, malformed_credential, unknown_key, revoked_key, wrong_environment, inactive_key, expired_key], status: 401, code: bad, message: "Bad"}
  - {on: [address_denied, scope_denied, route_denied], status: 403, code: no, message: "No"}
  - {on: [rate_limited, quota_exceeded], status: 429, code: slow, message: "Wait {retry_after} s"}
  - {on: [undecided], status: 500, code: later, message: "Later"}
`

const problemErrors = `
errors:
  dialect: problem
  answers:
  - {on: [missing_credential, malformed_credential, unknown_key, revoked_key, wrong_environment, inactive_key, expired_key], status: 401, type: "https://e/bad", title: Bad, message: "Bad key"}
  - {on: [address_denied, scope_denied, route_denied], status: 403, type: "https://e/no", title: "N\u0007o", message: "No", instance: true}
  - {on: [rate_limited, quota_exceeded], status: 429, type: "https://e/slow", title: Slow, message: "Wait {retry_after} s", instance: true}
  - {on: [undecided], status: 500, type: "https://e/later", title: Later, message: "Later"}
`

// extended is problemErrors with extension members.
func extended() string {
	s := strings.Replace(problemErrors, `message: "No", instance: true`, `message: "No", instance: true, extensions: {error: "N\"o", code: "no"}`, 1)
	return strings.Replace(s, `{retry_after} s", instance: true`, `{retry_after} s", instance: true, extensions: {retry_after: "{retry_after}", text: "{retry_after} of {limit}"}`, 1)
}

func TestBodies(t *testing.T) {
	noKey := func(w *world) { w.request.Headers = []policy.Header{{"x-request-id", "r\"1\x01"}} }
	handle := keys.NewHasher([]byte("pepper")).Handle(secret("sk_live_"))
	for _, c := range []struct {
		name, errors string
		change       func(*world)
		status       int
		body         string
	}{
		{"envelope missing", envelopeErrors, noKey, 401, `{"success":false,"error":{"code":"NO_KEY","message":"No \"key\" \\ given – ü","details":{"b":"x","header":"Authorization"}},"requestId":"r\"1\u0001"}`},
		{"envelope unknown", envelopeErrors, func(w *world) { w.keyErr = keys.ErrUnknown }, 401, `{"success":false,"error":{"code":"BAD","message":"Key ` + handle + ` is bad","details":{"key_id":"` + handle + `"}},"requestId":"r-1"}`},
		{"envelope inactive", envelopeErrors, func(w *world) { w.key.Status = keys.Inactive }, 401, `{"success":false,"error":{"code":"BAD","message":"Key key_0001 is bad","details":{"key_id":"key_0001"}},"requestId":"r-1"}`},
		{"envelope expired", envelopeErrors, func(w *world) { w.key.ExpiresAt = clock().Add(-time.Minute) }, 401, `{"success":false,"error":{"code":"OLD","message":"Expired at 2026-01-15T11:59:30Z","details":{"at":"2026-01-15T11:59:30Z","key":"key_0001"}},"requestId":"r-1"}`},
		{"envelope retired before expiry", envelopeErrors, func(w *world) {
			w.key.ExpiresAt, w.key.RetiresAt = clock().Add(time.Hour), clock().Add(-time.Hour).In(time.FixedZone("x", 3600))
		}, 401, `{"success":false,"error":{"code":"OLD","message":"Expired at 2026-01-15T11:00:30Z","details":{"at":"2026-01-15T11:00:30Z","key":"key_0001"}},"requestId":"r-1"}`},
		{"envelope address", envelopeErrors, func(w *world) {
			w.key.IPs, w.request.Peer = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, netip.MustParseAddr("::ffff:192.0.2.9")
		}, 403, `{"success":false,"error":{"code":"ADDRESS","message":"Not from 192.0.2.9"},"requestId":"r-1"}`},
		{"envelope scope", envelopeErrors, func(w *world) { w.request.Method = "POST" }, 403, `{"success":false,"error":{"code":"SCOPE","message":"Route add needs write"},"requestId":"r-1"}`},
		{"envelope route, no request id", envelopeErrors, func(w *world) { w.request.Target = "/x"; w.request.Headers = w.request.Headers[:1] }, 403, `{"success":false,"error":{"code":"ROUTE","message":"No"},"requestId":"req_DECISION"}`},
		{"envelope route, empty request id", envelopeErrors, func(w *world) { w.request.Target = "/x"; w.request.Headers = []policy.Header{{"x-request-id", ""}} }, 401, `{"success":false,"error":{"code":"NO_KEY","message":"No \"key\" \\ given – ü","details":{"b":"x","header":"Authorization"}},"requestId":"req_DECISION"}`},
		{"envelope rate", envelopeErrors, func(w *world) { w.spent = 10 }, 429, `{"success":false,"error":{"code":"SLOW","message":"minute: wait 30 s","details":{"retry_after":30,"text":"30 s"}},"requestId":"r-1"}`},
		{"envelope quota", envelopeErrors, func(w *world) { w.spent = 100 }, 429, `{"success":false,"error":{"code":"SLOW","message":"month: wait 1425570 s","details":{"retry_after":1425570,"text":"1425570 s"}},"requestId":"r-1"}`},
		{"envelope undecided", envelopeErrors, func(w *world) { w.keyErr = errors.New("away") }, 503, `{"success":false,"error":{"code":"LATER","message":"Later"},"requestId":"r-1"}`},
		{"envelope corrupt", envelopeErrors, func(w *world) { w.keyErr = &keys.CorruptError{} }, 503, `{"success":false,"error":{"code":"LATER","message":"Later"},"requestId":"r-1"}`},
		{"nested missing", nestedErrors, noKey, 401, `{"error":{"code":"bad","message":"Bad"}}`},
		{"nested scope", nestedErrors, func(w *world) { w.request.Method = "POST" }, 403, `{"error":{"code":"no","message":"No"}}`},
		{"nested rate", nestedErrors, func(w *world) { w.spent = 10 }, 429, `{"error":{"code":"slow","message":"Wait 30 s","retry_after":30}}`},
		{"problem missing", problemErrors, noKey, 401, `{"type":"https://e/bad","title":"Bad","status":401,"detail":"Bad key"}`},
		{"problem route", problemErrors, func(w *world) { w.request.Target = "/é\"\xff/../?api_key=" + secret("sk_live_") }, 403, `{"type":"https://e/no","title":"N\u0007o","status":403,"detail":"No","instance":"/é\"�/../"}`},
		{"problem rate", problemErrors, func(w *world) { w.spent, w.request.Target = 10, "/items?x=1" }, 429, `{"type":"https://e/slow","title":"Slow","status":429,"detail":"Wait 30 s","instance":"/items"}`},
		{"problem extensions", extended(), func(w *world) { w.request.Method = "POST" }, 403, `{"type":"https://e/no","title":"N\u0007o","status":403,"detail":"No","instance":"/items","code":"no","error":"N\"o"}`},
		{"problem extensions with a number", extended(), func(w *world) { w.spent = 10 }, 429, `{"type":"https://e/slow","title":"Slow","status":429,"detail":"Wait 30 s","instance":"/items","retry_after":30,"text":"30 of minute"}`},
		{"problem without extensions", extended(), noKey, 401, `{"type":"https://e/bad","title":"Bad","status":401,"detail":"Bad key"}`},
		{"unknown api", nestedErrors, func(w *world) { w.request.Host = "x" }, 403, `{"error":{"code":"unknown_api","message":"No API is configured for this host."}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := goodWorld()
			c.change(w)
			d := w.decide(t, speaking(t, c.errors))
			want := strings.ReplaceAll(strings.ReplaceAll(c.body, `/é"`, `/é\"`), "DECISION", d.ID)
			if string(d.Body) != want || d.Status != c.status {
				t.Errorf("%d %s\nwant %d %s", d.Status, d.Body, c.status, want)
			}
			if !json.Valid(d.Body) {
				t.Error("not JSON")
			}
			kind := "application/json"
			if strings.Contains(c.errors, "dialect: problem") {
				kind = "application/problem+json"
			}
			if got := header(d.Response, "content-type"); got != kind {
				t.Errorf("content-type %q", got)
			}
		})
	}
}

// Where the policy says so, a refusal tells the id of its decision.
func TestDecisionID(t *testing.T) {
	told := strings.Replace(envelopeErrors, `details: {header: Authorization, b: "x"}`, `details: {decision: "{decision_id}"}`, 1)
	for _, c := range []struct {
		errors       string
		change       func(*world)
		body, header bool
	}{
		{told, func(w *world) { w.request.Headers = nil }, true, false},
		{told, func(w *world) { w.keyErr = keys.ErrUnknown }, false, false},
		{strings.Replace(told, "dialect: envelope", "dialect: envelope\n  decision_id: header", 1), func(w *world) { w.request.Headers = nil }, true, true},
		{strings.Replace(nestedErrors, "dialect: nested", "dialect: nested\n  decision_id: header", 1), func(w *world) { w.spent = 10 }, false, true},
		{strings.Replace(nestedErrors, "dialect: nested", "dialect: nested\n  decision_id: header", 1), func(*world) {}, false, false},
		{strings.Replace(nestedErrors, "dialect: nested", "dialect: nested\n  decision_id: none", 1), func(w *world) { w.spent = 10 }, false, false},
	} {
		w := goodWorld()
		c.change(w)
		d := w.decide(t, speaking(t, c.errors))
		want := ""
		if c.header {
			want = d.ID
		}
		if got := header(d.Response, "x-decision-id"); got != want || d.ID == "" {
			t.Errorf("the header is %q, want %q", got, want)
		}
		if got := strings.Contains(string(d.Body), `"decision":"`+d.ID+`"`); got != c.body {
			t.Errorf("the body is %s", d.Body)
		}
	}
}

// What a gRPC client sees: one line of text, and a status of its own.
func TestGRPCAnswers(t *testing.T) {
	for _, c := range []struct {
		contentType string
		change      func(*world)
		status      string
		message     string
	}{
		{"application/grpc", func(w *world) { w.keyErr = keys.ErrUnknown }, "16", "Bad"},
		{"application/grpc+proto", func(w *world) { w.request.Method = "POST" }, "7", "No"},
		{"application/grpc", func(w *world) { w.spent = 10 }, "8", "Wait 30 s"},
		{"application/grpc", func(w *world) { w.keyErr = errors.New("away") }, "14", "Later"},
		{"application/grpc", func(w *world) { w.request.Host = "x" }, "7", "No API is configured for this host."},
		{"application/grpc-web", func(w *world) { w.spent = 10 }, "", `{"error":{"code":"slow","message":"Wait 30 s","retry_after":30}}`},
		{"application/grpcx", func(w *world) { w.spent = 10 }, "", `{"error":{"code":"slow","message":"Wait 30 s","retry_after":30}}`},
		{"application/json", func(w *world) { w.spent = 10 }, "", `{"error":{"code":"slow","message":"Wait 30 s","retry_after":30}}`},
	} {
		w := goodWorld()
		w.request.Headers = append(w.request.Headers, policy.Header{"content-type", c.contentType})
		c.change(w)
		d := w.decide(t, speaking(t, nestedErrors))
		if got := header(d.Response, "grpc-status"); got != c.status || string(d.Body) != c.message {
			t.Errorf("%s: grpc-status %q, body %s", c.contentType, got, d.Body)
		}
		if c.status != "" && header(d.Response, "content-type") != "application/grpc" {
			t.Errorf("%v", d.Response)
		}
	}
}

func TestChallenge(t *testing.T) {
	for _, c := range []struct {
		text   string
		change func(*world)
		want   string
	}{
		{shop, func(w *world) { w.request.Headers = nil }, `Bearer realm="shop"`},
		{shop, func(w *world) { w.keyErr = keys.ErrUnknown }, `Bearer realm="shop", error="invalid_token"`},
		{shop, func(w *world) { w.request.Headers = []policy.Header{{"x-api-key", "x"}} }, `Bearer realm="shop", error="invalid_token"`},
		{shop, func(w *world) { w.request.Method = "POST" }, ""},
		{"realm: The shop" + shop, func(w *world) { w.request.Headers = nil }, `Bearer realm="The shop"`},
		{strings.Replace(shop, "bearer, ", "{authorization: none}, {authorization: APIKEY}, ", 1), func(w *world) { w.request.Headers = nil }, `APIKEY realm="shop"`},
		{strings.Replace(shop, "bearer, ", "", 1), func(w *world) { w.request.Headers = nil }, `ApiKey realm="shop"`},
	} {
		w := goodWorld()
		c.change(w)
		if got := header(w.decide(t, compiled(t, c.text+nestedErrors)).Response, "www-authenticate"); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestReasonNames(t *testing.T) {
	for _, r := range policy.Reasons() {
		if got, ok := policy.ParseReason(r.String()); !ok || got != r {
			t.Errorf("%v is read as %v", r, got)
		}
	}
	if got := policy.Reason(len(policy.Reasons())).String(); got != fmt.Sprintf("reason(%d)", len(policy.Reasons())) {
		t.Error(got)
	}
	if _, ok := policy.ParseReason("banned"); ok {
		t.Error("an unknown reason has a value")
	}
}
