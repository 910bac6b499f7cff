package store

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/roles"
)

// In a Redis whose memory is full a right can still be taken away, by whoever has the rights of the
// commands and no more, and the servers hear of it; nothing else can be done.
func TestTakingRightsAwayInAFullRedis(t *testing.T) {
	t.Parallel()
	for what, start := range map[string]func(*testing.T, connect.ACL) redis.UniversalClient{"server": keystest.NewServerAs, "cluster": keystest.NewClusterAs} {
		t.Run(what, func(t *testing.T) { testFull(t, start(t, asCommand())) })
	}
}

func testFull(t *testing.T, c redis.UniversalClient) {
	ctx, s := t.Context(), New(c)
	mustTeam(t, s, "pictify", "orbit")
	member := mustMember(t, s, "orbit", "Ann", roles.Viewer)
	ks := []*keys.Key{named("aaaa", 1), named("bbbb", 2), named("cccc", 3, func(k *keys.Key) { k.Status = keys.Revoked })}
	for _, err := range s.CreateAll(ctx, ks) {
		if err != nil {
			t.Fatal(err)
		}
	}
	admin := keystest.Administrator(t, c)
	sub := admin.Subscribe(ctx, keystest.Changes)
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	if err := admin.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	write := func(k *keys.Key, status keys.Status) (*keys.Key, error) {
		next := k.Clone()
		next.Status = status
		return s.Write(ctx, k, next)
	}
	if err := s.Create(ctx, named("dddd", 4)); !IsFull(err) {
		t.Errorf("created: %v", err)
	}
	if _, err := write(ks[0], keys.Active); !IsFull(err) {
		t.Errorf("written: %v", err)
	}
	if _, err := write(ks[0], keys.Revoked); err != nil {
		t.Fatalf("revoked: %v", err)
	}
	if message, err := sub.ReceiveMessage(ctx); err != nil || !strings.HasSuffix(message.Payload, " "+ks[0].ID) {
		t.Errorf("published: %v, %v", message, err)
	}
	if k, err := s.Lookup(ctx, ks[0].Digest); err != nil || k.Status != keys.Revoked {
		t.Errorf("found: %+v, %v", k, err)
	}
	inactive, err := write(ks[1], keys.Inactive)
	if err != nil {
		t.Fatalf("deactivated: %v", err)
	}
	if _, err := write(inactive, keys.Active); !IsFull(err) {
		t.Errorf("activated: %v", err)
	}
	if err := s.Delete(ctx, ks[2]); err != nil {
		t.Errorf("deleted: %v", err)
	}
	if err := removeMember(ctx, s, "pictify", "orbit", member.ID); err != nil {
		t.Errorf("removed: %v", err)
	}
}
