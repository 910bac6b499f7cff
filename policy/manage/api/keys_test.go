package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/manage/api"
)

// The life of a key, as an admin of its team lives it over HTTP.
func TestLifeOfAKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := orbit + "/admin"
	made := w.made(ann, `{"name":"checkout","note":"till","environment":"live","plan":"free","scopes":["render"],
		"ips":["192.0.2.1","2001:db8::/32"],"limits":[{"name":"day","requests":10}],"expires_at":"2026-03-01T00:00:00+01:00"}`)
	k := made.Key
	if k.Team != orbit || k.API != "pictify" || k.State != "active" || k.Version != 1 || !strings.HasPrefix(made.Secret, "pk_live_") ||
		fmt.Sprint(k.IPs) != "[192.0.2.1/32 2001:db8::/32]" || k.ExpiresAt != time.Date(2026, 2, 28, 23, 0, 0, 0, time.UTC) ||
		!strings.HasPrefix(k.CreatedBy, w.members[ann].ID) || fmt.Sprint(k.Limits) != "[{day 10}]" || made.Warnings != nil {
		t.Fatalf("made %+v", made)
	}
	if found, err := w.store.Lookup(t.Context(), keys.NewHasher([]byte("pepper")).Digest(made.Secret)); err != nil || found.ID != k.ID {
		t.Fatalf("by its secret: %v, %v", found.ID, err)
	}
	path := "/v1/keys/" + k.ID
	got := w.send(ann, "GET", path, "").want(200, "")
	if got.header.Get("ETag") != `"1"` {
		t.Errorf("ETag %s", got.header.Get("ETag"))
	}

	var changed api.ChangedKey
	r := w.send(ann, "PATCH", path, `{"note":null,"name":"till 2","scopes":["render","templates"],"ips":null,"expires_at":null}`, `If-Match: "1"`).want(200, "")
	r.read(&changed)
	if c := changed.Key; c.Note != "" || c.Name != "till 2" || len(c.IPs) != 0 || !c.ExpiresAt.IsZero() || len(c.Limits) != 1 || len(c.Scopes) != 2 || c.Version != 2 || r.header.Get("ETag") != `"2"` {
		t.Errorf("patched %+v", changed)
	}
	for _, stale := range []string{`"1"`, `W/"2"`, `"x"`, `2`, `"99999999999999999999"`} {
		w.send(ann, "PATCH", path, `{"name":"lost"}`, "If-Match: "+stale).want(412, "version_mismatch")
	}
	w.send(ann, "PATCH", path, `{"name":"lost"}`, `If-Match: "1", "2"`).want(422, "invalid_request")
	w.send(ann, "PATCH", path, `{"name":"kept"}`, "If-Match: *", "Content-Type: application/merge-patch+json").want(200, "")

	for _, step := range []struct{ verb, state string }{{"deactivate", "inactive"}, {"activate", "active"}} {
		w.send(ann, "POST", path+"/"+step.verb, "").want(200, "").read(&changed)
		if changed.Key.State != step.state {
			t.Errorf("%s: %s", step.verb, changed.Key.State)
		}
	}

	var next api.MadeKey
	r = w.send(ann, "POST", path+"/rotate", `{"grace_seconds":3600}`).want(201, "")
	r.read(&next)
	if next.Key.RotatedFrom != k.ID || next.Secret == "" || r.header.Get("Location") != "/v1/keys/"+next.Key.ID {
		t.Errorf("rotated to %+v", next)
	}
	var old api.Key
	w.send(ann, "GET", path, "").want(200, "").read(&old)
	if old.State != "retiring" || old.RotatedTo != next.Key.ID || old.RetiresAt != keystest.Noon().Add(time.Hour) {
		t.Errorf("rotated %+v", old)
	}
	w.send(ann, "POST", path+"/rotate", "").want(409, "key_rotated")
	w.clock.Advance(time.Hour)
	w.send(ann, "GET", path, "").want(200, "").read(&old)
	if old.State != "retired" {
		t.Errorf("an hour later: %s", old.State)
	}

	path = "/v1/keys/" + next.Key.ID
	w.send(ann, "DELETE", path, "").want(409, "key_not_revoked")
	w.send(ann, "POST", path+"/revoke", "").want(200, "").read(&changed)
	if changed.Key.State != "revoked" {
		t.Errorf("revoked: %+v", changed)
	}
	w.send(ann, "POST", path+"/activate", "").want(409, "key_revoked")
	w.send(ann, "PATCH", path, `{"name":"x"}`).want(409, "key_revoked")
	w.send(ann, "DELETE", path, "").want(200, "")
	w.send(ann, "GET", path, "").want(404, "no_such_key")
	keystest.Consistent(t, w.redis)
}

// Rotating without a word about the grace gives the old secret a day.
func TestRotateHasADayOfGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, body := range []string{"", "{}"} {
		made := w.made(orbit+"/admin", `{"name":"n","environment":"test","plan":"free"}`)
		w.send(orbit+"/admin", "POST", "/v1/keys/"+made.Key.ID+"/rotate", body).want(201, "")
		var old api.Key
		w.send(orbit+"/admin", "GET", "/v1/keys/"+made.Key.ID, "").read(&old)
		if old.RetiresAt != keystest.Noon().Add(24*time.Hour) {
			t.Errorf("body %q: retires at %s", body, old.RetiresAt)
		}
	}
	made := w.made(orbit+"/admin", `{"name":"n","environment":"test","plan":"free"}`)
	w.send(orbit+"/admin", "POST", "/v1/keys/"+made.Key.ID+"/rotate", `{"grace_seconds":0}`).want(201, "")
	var old api.Key
	w.send(orbit+"/admin", "GET", "/v1/keys/"+made.Key.ID, "").read(&old)
	if old.State != "retired" {
		t.Errorf("no grace: %+v", old)
	}
}

// What a member says of a key is refused with the place of the mistake, and changes nothing.
func TestMistakesNameTheirPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := orbit + "/admin"
	before := keystest.Dump(t, w.redis)
	for _, c := range []struct {
		body   string
		status int
		code   string
		says   string
	}{
		{`{"environment":"live","plan":"free"}`, 422, "invalid_request", "name"},
		{`{"name":"","environment":"live","plan":"free"}`, 422, "invalid_request", `"field":"name"`},
		{`{"name":7,"environment":"live","plan":"free"}`, 422, "invalid_request", `"field":"name"`},
		{`{"name":"n","environment":"live","plan":"free","id":"key_AAAAAAAAAAAAAAAA"}`, 422, "invalid_request", `"field":"id"`},
		{`{"name":"n","environment":"live","plan":"free","team":"nova"}`, 422, "invalid_request", `"field":"team"`},
		{`{"name":"n","environment":"live","plan":"free","ips":["192.0.2.1","x"]}`, 422, "invalid_request", `"field":"ips[1]"`},
		{`{"name":"n","environment":"live","plan":"free","expires_at":"tomorrow"}`, 422, "invalid_request", `"field":"expires_at"`},
		{`{"name":"n","environment":"live","plan":"free","expires_at":"2020-01-01T00:00:00Z"}`, 422, "invalid_request", `"field":"expires_at"`},
		{`{"name":"n","environment":"live","plan":"free","limits":[{"name":"day","requests":-1}]}`, 422, "invalid_request", `"field":"limits[0].requests"`},
		{`{"name":"n","environment":"live","plan":"free","status":"revoked"}`, 422, "invalid_request", `"field":"status"`},
		{`{"name":"n","environment":"live","plan":"free","anchor_day":32}`, 422, "invalid_request", `"field":"anchor_day"`},
		{`{"name":"n","environment":"live","plan":"free","scopes":["render","rendr"]}`, 422, "policy_refuses", "render"},
		{`{"name":"n","environment":"live","plan":"fre"}`, 422, "policy_refuses", "free"},
		{`{"name":"n","environment":"stage","plan":"free"}`, 422, "policy_refuses", "stage"},
		{`{"name":"n","environment":"live","plan":"business"}`, 403, "forbidden", "not one of the team's, which has free, pro"},
		{`{"name":"n","environment":"live","plan":"free","limits":[{"name":"day","requests":1001}]}`, 403, "forbidden", "can only be made smaller"},
		{`{"name":"n"`, 400, "invalid_body", ""},
		{`{"name":"n","name":"m","environment":"live","plan":"free"}`, 400, "invalid_body", "repeated field name"},
		{`{"NAME":"n","environment":"live","plan":"free"}`, 400, "invalid_body", "(not shown)"},
		{`[]`, 422, "invalid_request", ""},
		{`{"name":"` + strings.Repeat("n", 300<<10) + `"}`, 413, "body_too_large", ""},
	} {
		r := w.send(ann, "POST", "/v1/keys", c.body).want(c.status, c.code)
		if !strings.Contains(r.body, c.says) {
			t.Errorf("%.80s: %s does not say %s", c.body, r.body, c.says)
		}
	}
	w.send(ann, "POST", "/v1/keys", liveKey, "Content-Type: text/plain").want(415, "unsupported_media_type")
	w.send(ann, "POST", "/v1/keys", "").want(400, "invalid_body")
	w.send(ann, "GET", "/v1/keys?colour=red", "").want(422, "invalid_request")
	w.send(ann, "GET", "/v1/keys?page_token=x", "").want(422, "invalid_request")
	w.send(ann, "GET", "/v1/keys?page_size=0", "").want(422, "invalid_request")
	w.send(ann, "GET", "/v1/keys/key.1", "").want(404, "no_such_key")
	w.send(ann, "GET", "/v1/nothing", "").want(404, "no_such_path")
	if r := w.send(ann, "PUT", "/v1/keys", "").want(405, "method_not_allowed"); !strings.Contains(r.header.Get("Allow"), "POST") {
		t.Errorf("Allow: %q", r.header.Get("Allow"))
	}
	// A plan's cap: two live keys.
	if after := keystest.Dump(t, w.redis); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the store changed from %v to %v", before, after)
	}
	w.made(ann, liveKey)
	w.made(ann, liveKey)
	w.send(ann, "POST", "/v1/keys", liveKey).want(409, "too_many_keys")
}

// A list has the keys of the member's own team, page by page, and only those that the filters let
// through.
func TestListOfKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, want := orbit+"/admin", map[string]bool{}
	for i := range 5 {
		k := w.made(ann, fmt.Sprintf(`{"name":"n%d","environment":"test","plan":"free"}`, i))
		want[k.Key.ID] = true
	}
	w.made(nova+"/admin", liveKey)
	seen, path, pages := map[string]bool{}, "/v1/keys?page_size=2", 0
	for token := ""; ; pages++ {
		var page api.KeyPage
		next := path
		if token != "" {
			next += "&page_token=" + token
		}
		w.send(ann, "GET", next, "").want(200, "").read(&page)
		for _, k := range page.Keys {
			if seen[k.ID] || !want[k.ID] {
				t.Errorf("page %d has %s of team %s", pages, k.ID, k.Team)
			}
			seen[k.ID] = true
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if len(seen) != 5 || pages < 2 {
		t.Errorf("%d keys on %d pages", len(seen), pages+1)
	}
	for id := range want {
		w.send(ann, "POST", "/v1/keys/"+id+"/deactivate", "").want(200, "")
		break
	}
	for query, n := range map[string]int{
		"status=inactive": 1, "status=active": 4, "status=active,inactive": 5, "status=revoked": 0, "plan=pro": 0, "plan=free": 5, "environment=live": 0,
		"created_before=2026-01-15T12:00:00Z": 0, "created_before=2026-01-15T12:00:01Z": 5, "unused_since=2026-01-15T12:00:01Z": 5,
	} {
		var page api.KeyPage
		if w.send(ann, "GET", "/v1/keys?"+query, "").want(200, "").read(&page); len(page.Keys) != n {
			t.Errorf("%s: %d keys, want %d", query, len(page.Keys), n)
		}
	}
	// A record that cannot be read is named, and hides no other.
	for id := range want {
		if err := w.redis.Set(t.Context(), keystest.RecordKey(id), "{", 0).Err(); err != nil {
			t.Fatal(err)
		}
		var page api.KeyPage
		if w.send(ann, "GET", "/v1/keys", "").want(200, "").read(&page); len(page.Keys) != 4 || fmt.Sprint(page.Unreadable) != "["+id+"]" {
			t.Errorf("%d keys, unreadable %v, want %s", len(page.Keys), page.Unreadable, id)
		}
		w.send(ann, "GET", "/v1/keys/"+id, "").want(500, "unreadable_record")
		break
	}
}

// Every write stands in the audit stream with who, from where, before and after, and no secret
// stands anywhere: neither there, nor in the log, nor in any answer but the one that made it.
func TestWritesAreAuditedWithoutSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := orbit + "/admin"
	made := w.made(ann, liveKey)
	path := "/v1/keys/" + made.Key.ID
	var answers strings.Builder
	for _, c := range [][3]string{
		{"GET", path, ""}, {"PATCH", path, `{"note":"x"}`}, {"POST", path + "/deactivate", ""}, {"POST", path + "/activate", ""},
		{"GET", "/v1/keys", ""}, {"POST", path + "/revoke", ""}, {"DELETE", path, ""}, {"POST", "/v1/keys", `{"name":"` + made.Secret + `","environment":"live","plan":"free"}`},
		{"POST", "/v1/keys", `{"` + made.Secret + `":1}`}, {"POST", "/v1/keys", `{"name":"n","environment":"live","plan":"` + made.Secret + `"}`},
		{"GET", "/v1/keys/" + made.Secret, ""}, {"GET", "/v1/keys?page_token=" + made.Secret, ""}, {"GET", "/v1/keys?" + made.Secret + "=1", ""},
	} {
		answers.WriteString(w.send(ann, c[0], c[1], c[2]).body)
	}
	actions := map[string]int{}
	var stream strings.Builder
	for _, e := range w.entries() {
		fmt.Fprintf(&stream, "%+v %s %s\n", e, e.Before, e.After)
		if e.Action == "" || e.Role == "operator" {
			continue
		}
		actions[string(e.Action)]++
		if e.Address != "127.0.0.1" || !strings.HasPrefix(e.Who, w.members[ann].ID) || e.Before == nil && e.After == nil {
			t.Errorf("%+v", e)
		}
	}
	if fmt.Sprint(actions) != "map[keys.activate:1 keys.create:1 keys.deactivate:1 keys.delete:1 keys.revoke:1 keys.update:1]" {
		t.Errorf("actions %v", actions)
	}
	for where, text := range map[string]string{"the audit stream": stream.String(), "the log": w.log.String(), "answers": answers.String()} {
		for what, secret := range map[string]string{"secret": made.Secret, "token": w.tokens[ann], "digest": keys.NewHasher([]byte("pepper")).Digest(made.Secret).Hex()} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: has the %s", where, what)
			}
		}
	}
}

// What the store cannot do is said as it is, and a key is never made that nobody could use.
func TestTroubleWithTheStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := orbit + "/admin"
	key := w.made(ann, liveKey).Key
	do := func(args ...any) {
		t.Helper()
		if err := keystest.Administrator(t, w.redis).Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// The audit stream is not one.
	do("rename", "tg:v1:audit", "aside")
	do("set", "tg:v1:audit", "x")
	w.send(ann, "POST", "/v1/keys", liveKey).want(503, "not_audited")
	do("del", "tg:v1:audit")
	do("rename", "aside", "tg:v1:audit")
	do("set", "tg:v1:pepper", "v1:00:00")
	w.clock.Advance(time.Second)
	w.send(ann, "POST", "/v1/keys", liveKey).want(503, "pepper_mismatch")
	w.send(ann, "POST", "/v1/keys/"+key.ID+"/rotate", "").want(503, "pepper_mismatch")
	if r := w.send(nobody, "GET", "/readyz", ""); r.status != http.StatusServiceUnavailable {
		t.Errorf("ready with another pepper: %s", r.body)
	}
	w.send(nobody, "GET", "/livez", "").want(200, "")
	w.send(ann, "POST", "/v1/keys/"+key.ID+"/revoke", "").want(200, "") // needs no pepper
	if !strings.Contains(w.log.String(), "code=not_audited") {
		t.Errorf("the log says nothing: %s", w.log.String())
	}
}
