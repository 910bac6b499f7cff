package api_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/policy/keys/keystest"
	"tollgate/policy/manage/api"
)

// Of a hundred requests with one name at the same time, one makes a key and gets the secret. The
// others hear that it is being made, or of the key, and never the secret.
func TestHundredAtOnceMakeOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers := make([]*reply, 100)
	var work sync.WaitGroup
	for i := range answers {
		work.Go(func() {
			// As many as this are more than are answered at once: the others try again.
			for answers[i] == nil || answers[i].status == 503 {
				answers[i] = w.send(orbit+"/admin", "POST", "/v1/keys", liveKey, "Idempotency-Key: one")
			}
		})
	}
	work.Wait()
	w.clock.Advance(time.Second) // for the throttle
	made, secret := 0, ""
	for _, r := range answers {
		switch r.status {
		case 201:
			var k api.MadeKey
			r.read(&k)
			made, secret = made+1, k.Secret
		case 200, 409, 429:
		default:
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	for _, r := range answers {
		if made != 1 || r.status != 201 && strings.Contains(r.body, secret) {
			t.Errorf("%d were made: %d %s", made, r.status, r.body)
		}
	}
	var page api.KeyPage
	w.send(orbit+"/admin", "GET", "/v1/keys", "").want(200, "").read(&page)
	if len(page.Keys) != 1 {
		t.Errorf("%d keys", len(page.Keys))
	}
	var again api.ChangedKey
	r := w.send(orbit+"/admin", "POST", "/v1/keys", liveKey, "Idempotency-Key: one").want(200, "")
	r.read(&again)
	if again.Key.ID != page.Keys[0].ID || r.header.Get("Idempotent-Replayed") != "true" || strings.Contains(r.body, secret) || len(again.Warnings) != 1 {
		t.Errorf("again: %s", r.body)
	}
}

// A name is one request's: another body is refused, another member's is another, what was refused
// may be tried again, and after a day it is free.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, name := orbit+"/admin", "Idempotency-Key: n"
	w.send(ann, "POST", "/v1/keys", `{"name":"n","environment":"live","plan":"business"}`, name).want(403, "forbidden")
	w.send(ann, "POST", "/v1/keys", liveKey, name).want(201, "")
	w.send(ann, "POST", "/v1/keys", strings.Replace(liveKey, "checkout", "other", 1), name).want(422, "idempotency_key_reused")
	w.send(nova+"/admin", "POST", "/v1/keys", liveKey, name).want(201, "")
	w.send(orbit+"/viewer", "POST", "/v1/keys", liveKey, name).want(403, "forbidden")
	w.send(ann, "POST", "/v1/keys", liveKey, "Idempotency-Key: "+strings.Repeat("n", 256)).want(422, "invalid_request")
	// The same in other words is the same request.
	w.send(ann, "POST", "/v1/keys", `{"plan":"free", "environment":"live", "name":"checkout"}`, name).want(200, "")
	w.clock.Advance(24 * time.Hour)
	w.send(ann, "POST", "/v1/keys", liveKey, name).want(201, "")
}

// A process that dies after the key is made, or before, leaves a reservation by which the same
// request hears of the key, or makes it.
func TestIdempotencyKeyAfterACrash(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		made bool
		want int
	}{{"before the key", false, 201}, {"after the key", true, 200}} {
		w := newWorld(t)
		ann := orbit + "/admin"
		var id string
		var first api.MadeKey
		w.send(ann, "POST", "/v1/keys", liveKey, "Idempotency-Key: n").want(201, "").read(&first)
		id = first.Key.ID
		// What stands in the store is put back to what stood there at the crash.
		reserved := "tg:v1:once:{" + w.members[ann].ID + "}"
		for field, value := range keystest.Must[map[string]string](t)(w.redis.HGetAll(t.Context(), reserved).Result()) {
			if err := w.redis.HSet(t.Context(), reserved, field, strings.Replace(value, " done ", " pending ", 1)).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if !c.made {
			w.forget(id)
		}
		w.send(ann, "POST", "/v1/keys", liveKey, "Idempotency-Key: n").want(409, "request_in_progress")
		w.clock.Advance(15 * time.Second)
		r := w.send(ann, "POST", "/v1/keys", liveKey, "Idempotency-Key: n").want(c.want, "")
		var now struct{ Key struct{ ID string } }
		if err := json.Unmarshal([]byte(r.body), &now); err != nil || now.Key.ID != id {
			t.Errorf("%s: %s, want %s", c.what, r.body, id)
		}
		w.send(ann, "POST", "/v1/keys", liveKey, "Idempotency-Key: n").want(200, "")
		if n := keystest.Must[int64](t)(w.redis.ZCard(t.Context(), keystest.IndexKey("pictify", orbit)).Result()); n != 1 {
			t.Errorf("%s: %d keys", c.what, n)
		}
	}
}

// forget removes a key without a trace, as if it had never been made.
func (w *world) forget(id string) {
	w.t.Helper()
	k, err := w.store.Get(w.t.Context(), id)
	if err == nil {
		err = w.store.Discard(w.t.Context(), k)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if n, err := w.redis.Exists(w.t.Context(), keystest.RecordKey(id)).Result(); err != nil || n != 0 {
		w.t.Fatal(n, err)
	}
}
