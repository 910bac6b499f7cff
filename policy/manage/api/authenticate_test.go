package api_test

import (
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/manage/api"
)

// Who has no good token gets nothing, whichever path it is, and learns nothing.
func TestNothingWithoutAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.made(orbit+"/admin", liveKey)
	w.tokens["never"] = keys.Seal("tgm_", strings.Repeat("A", keys.SecretBytes-6))
	w.tokens["malformed"] = "tgm_x"
	w.tokens["key"] = key.Secret
	for _, path := range []string{"/v1/keys", "/v1/keys/" + key.Key.ID, "/v1/keys/" + noKey, "/v1/nothing"} {
		if r := w.send(nobody, "GET", path, "").want(401, "no_token"); r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no challenge", path)
		}
		w.clock.Advance(pause)
		for _, who := range []string{"never", "malformed", "key"} {
			w.send(who, "GET", path, "").want(401, "invalid_token")
		}
		w.clock.Advance(pause)
	}
	for _, header := range []string{"Basic " + w.tokens[orbit+"/admin"], w.tokens[orbit+"/admin"], "Bearer", "Bearer  " + w.tokens[orbit+"/admin"]} {
		w.clock.Advance(pause)
		if r := w.send(nobody, "GET", "/v1/keys", "", "Authorization: "+header); r.status != 401 {
			t.Errorf("%.10s: %d", header, r.status)
		}
	}
	// A member who is removed is nobody at once, and so is one whose team is gone.
	gone := w.members[orbit+"/viewer"]
	w.clock.Advance(pause)
	w.send(orbit+"/viewer", "GET", "/v1/keys", "").want(403, "forbidden")
	if err := w.operator.RemoveMember(t.Context(), "pictify", orbit, gone.ID); err != nil {
		t.Fatal(err)
	}
	w.send(orbit+"/viewer", "GET", "/v1/keys", "").want(401, "invalid_token")
}

// After ten failures an address waits, and only that address.
func TestFailedLogInsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *api.Config) { c.Trusted = prefixes("127.0.0.0/8") })
	ann, from := orbit+"/admin", "X-Forwarded-For: 2001:db8::1"
	for range 10 {
		w.send(nobody, "GET", "/v1/keys", "", from).want(401, "no_token")
	}
	if r := w.send(ann, "GET", "/v1/keys", "", from).want(429, "too_many_failed_logins"); r.header.Get("Retry-After") != "6" {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
	w.send(ann, "GET", "/v1/keys", "", "X-Forwarded-For: 2001:db8::ffff").want(429, "too_many_failed_logins") // the same /64
	w.send(ann, "GET", "/v1/keys", "", "X-Forwarded-For: 2001:db8:0:1::1").want(200, "")
	w.send(ann, "GET", "/v1/keys", "", "X-Forwarded-For: 2001:db8:0:1::1, 2001:db8::1").want(429, "too_many_failed_logins") // what stands before is what a client writes
	w.send(ann, "GET", "/v1/keys", "").want(200, "")
	w.clock.Advance(pause)
	w.send(ann, "GET", "/v1/keys", "", from).want(200, "")
}

// Changes of one member are limited, and reads are not; nor are those of another.
func TestWritesAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 100 {
		w.send(orbit+"/admin", "POST", "/v1/keys/"+noKey+"/revoke", "").want(404, "no_such_key")
	}
	if r := w.send(orbit+"/admin", "POST", "/v1/keys/"+noKey+"/revoke", "").want(429, "too_many_requests"); r.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
	w.send(orbit+"/admin", "GET", "/v1/keys", "").want(200, "")
	w.send(nova+"/admin", "POST", "/v1/keys/"+noKey+"/revoke", "").want(404, "no_such_key")
}

// Addresses in the audit are those of clients: of the peer, unless it is a trusted proxy that says
// another.
func TestAddressesInTheAudit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ trusted, forwarded, want string }{
		{"", "192.0.2.7", "127.0.0.1"},
		{"127.0.0.1/32", "192.0.2.7", "192.0.2.7"},
		{"127.0.0.1/32", "198.51.100.9, 192.0.2.7", "192.0.2.7"},
		{"127.0.0.0/8", "192.0.2.7, 127.0.0.9", "192.0.2.7"},
		{"127.0.0.1/32", "nonsense", "127.0.0.1"},
		{"127.0.0.1/32", "", "127.0.0.1"},
		{"127.0.0.1/32", "::ffff:192.0.2.7", "192.0.2.7"},
		{"10.0.0.0/8", "192.0.2.7", "127.0.0.1"},
	} {
		w := newWorld(t, func(config *api.Config) {
			if c.trusted != "" {
				config.Trusted = prefixes(c.trusted)
			}
		})
		r := w.send(orbit+"/admin", "POST", "/v1/keys", liveKey, "X-Forwarded-For: "+c.forwarded).want(201, "")
		found := false
		for _, e := range w.entries() {
			if e.Action == "keys.create" {
				found = true
				if e.Address != c.want {
					t.Errorf("%+v: %s", c, e.Address)
				}
			}
		}
		if !found {
			t.Errorf("%+v: not in the audit: %s", c, r.body)
		}
	}
}

// Every answer has the headers that keep it out of caches, frames and guesses.
func TestStrictHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *api.Config) { c.Secure = true })
	for _, r := range []*reply{
		w.send(orbit+"/admin", "GET", "/v1/keys", ""), w.send(nobody, "GET", "/v1/keys", ""), w.send(nobody, "GET", "/nothing", ""),
		w.send(nobody, "GET", "/livez", ""), w.send(nobody, "GET", "/problems/busy", ""),
	} {
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Strict-Transport-Security": "max-age=31536000", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if r.header.Get(name) != want {
				t.Errorf("%s: %q", name, r.header.Get(name))
			}
		}
		if !strings.HasPrefix(r.header.Get("Content-Security-Policy"), "default-src 'none'") || r.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%v", r.header)
		}
	}
	// No way of writing a path leads past the token, nor is anything redirected.
	key := w.made(orbit+"/admin", liveKey).Key.ID
	for _, path := range []string{"//v1/keys", "/v1//keys", "/v1/./keys", "/v1/x/../keys", "/x/../v1/keys", "/%76%31/keys", "/v1%2Fkeys", "/v1/keys/%2e", "/V1/keys", "/v1"} {
		w.clock.Advance(pause)
		if r := w.send(nobody, "GET", path, ""); r.status != 401 && r.status != 404 || strings.Contains(r.body, key) {
			t.Errorf("%s without a token: %d %s", path, r.status, r.body)
		}
	}
	w.send(orbit+"/admin", "GET", "/v1//keys/"+key, "").want(404, "no_such_path")
}

// Each code has a page.
func TestEachProblemHasAPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, code := range []string{"no_token", "invalid_token", "no_such_key", "busy", "outcome_unknown"} {
		if r := w.send(nobody, "GET", "/problems/"+code, ""); r.status != 200 || !strings.HasPrefix(r.body, code+" (HTTP ") {
			t.Errorf("%s: %d %s", code, r.status, r.body)
		}
	}
	if r := w.send(nobody, "GET", "/problems/none", ""); r.status != 404 {
		t.Errorf("%d %s", r.status, r.body)
	}
}
