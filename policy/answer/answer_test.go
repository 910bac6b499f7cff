package answer

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// Whatever stands in a slot, the body is JSON and holds it.
func TestJSONRoundTrip(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`["\\/<>&\x00-\x1f\x7f\x{2028}]*`), rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	}))
	rapid.Check(t, func(t *rapid.T) {
		v := Values{RequestID: text.Draw(t, "id"), Path: text.Draw(t, "path"), KeyID: text.Draw(t, "key"), RetryAfter: rapid.Int64().Draw(t, "wait")}
		before, after := text.Draw(t, "before"), text.Draw(t, "after")
		var b jsonBuilder
		b.raw(`{"a":`)
		b.text(Template{{text: before}, {slot: KeyID}, {text: after}, {slot: Instance}})
		b.raw(`,"n":`)
		b.detail(Template{{slot: RetryAfter}})
		b.raw(`,"r":`)
		b.text(Template{{slot: RequestID}})
		b.raw(`}`)
		var got struct {
			A, R string
			N    int64
		}
		body := b.t.Render(nil, &v)
		if err := json.Unmarshal(body, &got); err != nil || !utf8.Valid(body) {
			t.Fatalf("%v: %q", err, body)
		}
		// Bytes that are not UTF-8 become U+FFFD, as in encoding/json.
		want := string([]rune(before)) + string([]rune(v.KeyID)) + string([]rune(after)) + string([]rune(v.Path))
		if got.A != want || got.R != string([]rune(v.RequestID)) || got.N != v.RetryAfter {
			t.Fatalf("%q, want %q", body, want)
		}
	})
}

func parsed(t *testing.T, s string) Template {
	t.Helper()
	text, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Each dialect writes its own fields, in its order, and leaves out what is not there.
func TestDialects(t *testing.T) {
	full := Text{
		Status: 429, Code: "SLOW", Type: "https://e/slow", Title: "Sl\"ow", Message: parsed(t, "{limit}: wait {retry_after} s"),
		Details:    map[string]Template{"retry_after": parsed(t, "{retry_after}"), "key": parsed(t, "{key_id}")},
		Extensions: map[string]Template{"from": parsed(t, "{address}"), "retry_after": parsed(t, "{retry_after}")},
		RequestID:  "requestId", Instance: true,
	}
	short := Text{Status: 403, Code: "NO", Type: "https://e/no", Title: "No", Message: parsed(t, "{route} needs {scope}, {expired_at}")}
	v := &Values{
		RetryAfter: 30, KeyID: "key_1", Scope: "read", Route: "list", Limit: "minute", RequestID: "r\"1", Path: "/a",
		ExpiredAt: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC), Address: netip.MustParseAddr("192.0.2.1"),
	}
	for name, c := range map[string]struct {
		got  Template
		v    *Values
		want string
	}{
		"envelope":                 {full.Envelope(), v, `{"success":false,"error":{"code":"SLOW","message":"minute: wait 30 s","details":{"key":"key_1","retry_after":30}},"requestId":"r\"1"}`},
		"envelope, short":          {short.Envelope(), v, `{"success":false,"error":{"code":"NO","message":"list needs read, 2027-01-02T03:04:05Z"}}`},
		"envelope, no retry":       {full.WithoutRetry().Envelope(), v, `{"success":false,"error":{"code":"SLOW","message":"minute: wait 30 s","details":{"key":"key_1"}},"requestId":"r\"1"}`},
		"nested":                   {full.Nested(true), v, `{"error":{"code":"SLOW","message":"minute: wait 30 s","retry_after":30}}`},
		"nested, no retry":         {full.Nested(false), v, `{"error":{"code":"SLOW","message":"minute: wait 30 s"}}`},
		"problem":                  {full.Problem(), v, `{"type":"https://e/slow","title":"Sl\"ow","status":429,"detail":"minute: wait 30 s","instance":"/a","from":"192.0.2.1","retry_after":30}`},
		"problem, short":           {short.Problem(), &Values{}, `{"type":"https://e/no","title":"No","status":403,"detail":" needs , "}`},
		"problem, no address":      {full.WithoutRetry().Problem(), &Values{}, `{"type":"https://e/slow","title":"Sl\"ow","status":429,"detail":": wait 0 s","instance":"","from":""}`},
		"text for gRPC":            {full.Message, v, `minute: wait 30 s`},
		"of a host without an API": {UnknownAPI().Body, v, `{"error":{"code":"unknown_api","message":"No API is configured for this host."}}`},
	} {
		if got := string(c.got.Render(nil, c.v)); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

func TestPlaceholders(t *testing.T) {
	text := parsed(t, "a {retry_after} b {key_id}{limit}")
	if got := text.Slots(); !slices.Equal(got, []Slot{RetryAfter, KeyID, Limit}) {
		t.Errorf("%v", got)
	}
	if got := RetryAfter.String() + RequestID.String(); got != "{retry_after}9" {
		t.Error(got)
	}
	for _, bad := range []string{"{nothing}", "{", "a {limit", "{}", "{request_id}"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// Envoy answers two forms of content type as gRPC, and its clients know other codes.
func TestGRPC(t *testing.T) {
	for contentType, want := range map[string]bool{"application/grpc": true, "application/grpc+proto": true, "application/grpc-web": false, "application/json": false, "": false} {
		if got := IsGRPC(contentType); got != want {
			t.Errorf("%q: %v", contentType, got)
		}
	}
	for status, want := range map[int]string{401: "16", 403: "7", 429: "8", 500: "14", 503: "14"} {
		if got := GRPCStatus(status); got != want {
			t.Errorf("%d: %s", status, got)
		}
	}
}
