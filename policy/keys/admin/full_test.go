package admin

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/keys"
	"tollgate/policy/keys/audit"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// In a Redis whose memory is full a right can still be taken away, with both lines in the audit
// stream, by whoever has the rights of the commands and no more; nothing else can be done.
func TestManagerInAFullRedis(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]redis.UniversalClient{"server": keystest.NewServerAs(t, asCommand()), "cluster": keystest.NewClusterAs(t, asCommand())} {
		t.Run(what, func(t *testing.T) { testManagerInAFullRedis(t, c) })
	}
}

func testManagerInAFullRedis(t *testing.T, c redis.UniversalClient) {
	ctx, s, m := t.Context(), store.New(c), operatorOf(c, nil)
	if err := s.CreateTeam(ctx, store.Team{API: "pictify", Name: "orbit"}); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range 4 {
		k, _ := mustCreate(t, m)
		ids = append(ids, k.ID)
	}
	member, _, err := m.AddMember(ctx, "pictify", "orbit", "Ada", roles.Viewer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Revoke(ctx, ids[3]); err != nil {
		t.Fatal(err)
	}
	sub := keystest.Administrator(t, c).Subscribe(ctx, keystest.Changes)
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	if err := keystest.Administrator(t, c).ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Create(ctx, liveKey(), false); !errors.Is(err, audit.ErrNotAudited) || !redis.HasErrorPrefix(err, "OOM") {
		t.Errorf("created: %v", err)
	}
	if _, err := m.Activate(ctx, ids[1]); err != nil { // it is active: nothing is to be done
		t.Errorf("activated: %v", err)
	}
	k, err := m.Revoke(ctx, ids[0])
	if err != nil || k.Status != keys.Revoked {
		t.Fatalf("revoked: %v", err)
	}
	if message, err := sub.ReceiveMessage(ctx); err != nil || !strings.HasSuffix(message.Payload, " "+ids[0]) {
		t.Errorf("published: %v, %v", message, err)
	}
	if k, err := s.Lookup(ctx, k.Digest); err != nil || k.Status != keys.Revoked {
		t.Errorf("found: %+v, %v", k, err)
	}
	if _, err := m.Deactivate(ctx, ids[1]); err != nil {
		t.Errorf("deactivated: %v", err)
	}
	if _, err := m.Activate(ctx, ids[1]); !redis.HasErrorPrefix(err, "OOM") {
		t.Errorf("activated: %v", err)
	}
	if _, err := m.Delete(ctx, ids[3]); err != nil {
		t.Errorf("deleted: %v", err)
	}
	if err := m.RemoveMember(ctx, "pictify", "orbit", member.ID); err != nil {
		t.Errorf("removed: %v", err)
	}
	entries, _, err := m.ReadAudit(ctx, "", 8, audit.NewestFirst)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []roles.Action{roles.ActionRemoveMember, roles.ActionDelete, roles.ActionDeactivate, roles.ActionRevoke} {
		if intent, outcome := entries[2*i+1], entries[2*i]; intent.Action != want || outcome.Intent != intent.ID || outcome.Result != "done" {
			t.Errorf("audited: %+v, %+v; want %s", intent, outcome, want)
		}
	}
}
