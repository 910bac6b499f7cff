package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/admin"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/store"
)

// A store that takes no writes stops what has to be counted, and nothing else: while the breaker of
// spends is open, keys that were never used before are found, those without limits are allowed, and
// a revocation is heard of at once.
func TestStoreThatTakesNoWrites(t *testing.T) {
	f := startServers(t, 0)
	dir := filepath.Dir(f.socket)
	plans := "plans:\n- {name: counted, failure_mode: closed, limits: [{name: month, requests: 90, per: month}]}\n" + // too few to lease any
		"- {name: free, limits: []}\n"
	tollgatetest.WriteFile(t, dir+"/policy.yaml", append(pixelbyte(t, "policy.yaml"), plans...))
	f.start(t, dir, "addresses", "--cache-ttl", "30s") // what is heard of within limit was a message
	if err := os.Mkdir(dir+"/dump.rdb", 0o700); err != nil {
		t.Fatal(err) // so that no snapshot can be saved
	}
	config := func(name, value string) func() {
		return func() {
			if err := f.admin.ConfigSet(t.Context(), name, value).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	replicaOf := func(host, port string) func() {
		return func() {
			if err := f.admin.Do(t.Context(), "replicaof", host, port).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, trouble := range map[string]struct{ begin, end func() }{
		"OOM":      {config("maxmemory", "1"), config("maxmemory", "0")},
		"READONLY": {replicaOf("127.0.0.1", "1"), replicaOf("no", "one")},
		"MISCONF": {func() {
			config("save", "3600 1")()
			_ = f.admin.BgSave(t.Context()).Err()
			eventually(t, "the snapshot has failed", func() bool { return f.admin.Set(t.Context(), "x", 1, 0).Err() != nil })
		}, config("save", "")},
	} {
		t.Run(name, func(t *testing.T) { f.takesNoWrites(t, trouble.begin, trouble.end) })
	}
}

func (f *fleet) takesNoWrites(t *testing.T, begin, end func()) {
	known, cold := f.keyOn(t, "counted"), []*planned{}
	for range 20 {
		cold = append(cold, f.keyOn(t, "free"))
	}
	gone := f.keyOn(t, "free")
	for _, k := range []*planned{known, gone} {
		eventually(t, "the key is known", func() bool { return f.allows(t, k) })
	}
	begin()
	refused := func() bool {
		if f.allows(t, known) {
			t.Error("a key was allowed that cannot be counted")
		}
		return f.metric(t, `tollgate_store_breaker_open{operation="spend"}`) == 1
	}
	eventually(t, "the breaker of spends is open", refused)
	for _, k := range cold {
		if !f.allows(t, k) {
			t.Error("a key that was never used before is refused")
		}
	}
	if !f.allows(t, gone) {
		t.Error("a key that is known is refused")
	}
	// Somebody who can write revokes it.
	end()
	if code, _, stderr := command(t, "keys", "revoke", gone.id, "--store", f.url("cli")); code != exit.CodeOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if f.allows(t, gone) {
		t.Error("a key that was revoked is allowed")
	}
	begin()
	if !refused() || f.metric(t, `tollgate_store_breaker_open{operation="lookup"}`) != 0 {
		t.Error("the breaker of spends is not open, or that of look-ups is")
	}
	end()
	eventually(t, "the store takes writes again", func() bool { return f.allows(t, known) })
	if n := f.metric(t, `tollgate_store_breaker_open{operation="spend"}`); n != 0 {
		t.Errorf("%d breakers of spends are open", n)
	}
}

// planned is a key on a plan.
type planned struct{ id, secret string }

func (f *fleet) keyOn(t *testing.T, plan string) *planned {
	t.Helper()
	secret := keys.NewSecret("pb_")
	id := "key_" + keys.NewSecret("")[:16]
	k := keys.Key{ID: id, API: "pixelbyte", Name: plan, Plan: plan, LimitID: id, Status: keys.Active, Version: 1, AnchorDay: 1, CreatedAt: time.Now()}
	if _, err := admin.Seed(t.Context(), store.New(f.admin), []keyfile.Entry{{Key: k, Secret: secret}}, keys.NewHasher(nil)); err != nil {
		t.Fatal(err)
	}
	return &planned{id, secret}
}

func (f *fleet) allows(t *testing.T, k *planned) bool {
	t.Helper()
	ok, err := f.allowed(t.Context(), 0, k.secret)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}
