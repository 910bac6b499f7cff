package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
	"tollgate/policy/keys/keystest"
)

// In a Redis whose memory is full a right can still be taken away, with both lines in the audit stream, by whoever has the
// rights of the commands and no more; nothing else can be done.
func TestTakingRightsAwayInAFullRedis(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]redis.UniversalClient{"server": keystest.NewServerAs(t, connect.CLIACL()), "cluster": keystest.NewClusterAs(t, connect.CLIACL())} {
		t.Run(what, func(t *testing.T) { testFull(t, c) })
	}
}

func testFull(t *testing.T, c redis.UniversalClient) {
	ctx, s, m := t.Context(), NewStore(c), operatorOf(c, nil)
	if err := s.CreateTeam(ctx, Team{API: "pictify", Name: "orbit"}); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range 4 {
		k, _ := mustCreate(t, m)
		ids = append(ids, k.ID)
	}
	member, _, err := m.AddMember(ctx, "pictify", "orbit", "Ada", Viewer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Revoke(ctx, ids[3]); err != nil {
		t.Fatal(err)
	}
	sub := keystest.Administrator(t, c).Subscribe(ctx, changesChannel)
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	if err := keystest.Administrator(t, c).ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Create(ctx, liveKey(), false); !errors.Is(err, ErrNotAudited) || !isFull(err) {
		t.Errorf("created: %v", err)
	}
	if _, err := m.Activate(ctx, ids[1]); err != nil { // it is active: nothing is to be done
		t.Errorf("activated: %v", err)
	}
	k, err := m.Revoke(ctx, ids[0])
	if err != nil || k.Status != Revoked {
		t.Fatalf("revoked: %v", err)
	}
	if message, err := sub.ReceiveMessage(ctx); err != nil || !strings.HasSuffix(message.Payload, " "+ids[0]) {
		t.Errorf("published: %v, %v", message, err)
	}
	if k, err := s.Lookup(ctx, k.Digest); err != nil || k.Status != Revoked {
		t.Errorf("found: %+v, %v", k, err)
	}
	if _, err := m.Deactivate(ctx, ids[1]); err != nil {
		t.Errorf("deactivated: %v", err)
	}
	if _, err := m.Activate(ctx, ids[1]); !isFull(err) {
		t.Errorf("activated: %v", err)
	}
	if _, err := m.Delete(ctx, ids[3]); err != nil {
		t.Errorf("deleted: %v", err)
	}
	if err := m.RemoveMember(ctx, "pictify", "orbit", member.ID); err != nil {
		t.Errorf("removed: %v", err)
	}
	entries, _, err := m.ReadAudit(ctx, "", 8, NewestFirst)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Action{ActionRemoveMember, ActionDelete, ActionDeactivate, ActionRevoke} {
		if intent, outcome := entries[2*i+1], entries[2*i]; intent.Action != want || outcome.Intent != intent.ID || outcome.Result != "done" {
			t.Errorf("audited: %+v, %+v; want %s", intent, outcome, want)
		}
	}
}

// A change of a record with very many addresses leaves two short lines, which still tell one list from another.
func TestAuditIsBoundedByBytes(t *testing.T) {
	c := keystest.NewServer(t)
	ctx, m := t.Context(), operatorOf(c, nil)
	k, _ := mustCreate(t, m, func(k *Key) { k.Note = strings.Repeat("ä", 500) })
	lists := make([][]netip.Prefix, 2)
	for i := range lists {
		for n := range 900 {
			lists[i] = append(lists[i], netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 32))
		}
	}
	lists[1][899] = netip.MustParsePrefix("192.0.2.1/32")
	for i := range lists {
		if _, err := m.Update(ctx, k.ID, Patch{IPs: &lists[i]}); err != nil {
			t.Fatal(err)
		}
	}
	if used := c.MemoryUsage(ctx, auditKey, 0).Val(); used > 3*3*maxSideBytes {
		t.Errorf("three changes take %d bytes", used)
	}
	entries, _, err := m.ReadAudit(ctx, "", 10, NewestFirst)
	if err != nil || len(entries) != 6 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	var before, after struct {
		ID     string          `json:"id"`
		Status Status          `json:"status"`
		IPs    []string        `json:"ips"`
		Cut    json.RawMessage `json:"ips_cut"`
		Note   string          `json:"note"`
	}
	for side, into := range map[*json.RawMessage]any{&entries[1].Before: &before, &entries[1].After: &after} {
		if err := json.Unmarshal(*side, into); err != nil || len(*side) > maxSideBytes {
			t.Errorf("%d bytes, %v", len(*side), err)
		}
	}
	if before.ID != k.ID || after.Status != Active || len(after.IPs) != keptItems || after.Note != strings.Repeat("ä", keptText/2) || !strings.Contains(string(after.Cut), `"of":900`) {
		t.Errorf("%+v", after)
	}
	if string(before.Cut) == string(after.Cut) {
		t.Errorf("the change is not seen: %s", after.Cut)
	}
}

// Whatever a side is, it is within its bound, and still JSON.
func TestAuditSides(t *testing.T) {
	long := strings.Repeat("x", 2*maxSideBytes)
	many := map[string]string{"id": "key_1"}
	for i := range 100 {
		many[fmt.Sprint("field", i)] = long[:60]
	}
	for what, v := range map[string]any{
		"a text": long, "a list": strings.Split(long, ""), "a number": 1, "many fields": many, "deep": map[string]any{"id": "key_1", "a": map[string]string{"b": long}},
		"a long id": map[string]string{"id": long}, "long names": map[string]int{long: 1},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		short := fitSide(data)
		if !json.Valid(short) || len(short) > maxSideBytes || len(data) <= maxSideBytes && string(short) != string(data) {
			t.Errorf("%s: %s", what, short)
		}
		if what == "deep" && !strings.Contains(string(short), `"id":"key_1"`) {
			t.Errorf("%s: %s", what, short)
		}
	}
	ids := make([]string, maxAuditIDs+150)
	if e := (AuditEntry{IDs: ids}).fit(); len(e.IDs) != maxAuditIDs || e.MoreIDs != 150 {
		t.Errorf("%d ids and %d more", len(e.IDs), e.MoreIDs)
	}
}
