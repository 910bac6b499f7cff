package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"
)

// A change of a record with very many addresses leaves two short lines, which still tell one list
// from another.
func TestAuditIsBoundedByBytes(t *testing.T) {
	c := keystest.NewServer(t)
	ctx, a := t.Context(), New(c, 1000)
	k := keystest.Sample(func(k *keys.Key) { k.Note = strings.Repeat("ä", 500) })
	lists := make([][]netip.Prefix, 2)
	for i := range lists {
		for n := range 900 {
			lists[i] = append(lists[i], netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 32))
		}
	}
	lists[1][899] = netip.MustParsePrefix("192.0.2.1/32")
	change := func(before, after *keys.Key) {
		t.Helper()
		e := anIntent()
		e.Before, e.After = keystest.Must[json.RawMessage](t)(store.PublicRecord(before)), keystest.Must[json.RawMessage](t)(store.PublicRecord(after))
		if err := a.Do(ctx, e, func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	change(nil, k)
	for _, list := range lists {
		next := *k
		next.IPs = list
		change(k, &next)
		k = &next
	}
	if used := c.MemoryUsage(ctx, streamKey, 0).Val(); used > 3*3*maxSideBytes {
		t.Errorf("three changes take %d bytes", used)
	}
	entries, _, err := a.Read(ctx, "", 10, NewestFirst)
	if err != nil || len(entries) != 6 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	var before, after struct {
		ID      string          `json:"id"`
		Status  keys.Status     `json:"status"`
		IPs     []string        `json:"ips"`
		Shorten json.RawMessage `json:"ips_cut"`
		Note    string          `json:"note"`
	}
	for side, into := range map[*json.RawMessage]any{&entries[1].Before: &before, &entries[1].After: &after} {
		if err := json.Unmarshal(*side, into); err != nil || len(*side) > maxSideBytes {
			t.Errorf("%d bytes, %v", len(*side), err)
		}
	}
	if before.ID != k.ID || after.Status != keys.Active || len(after.IPs) != keptItems || after.Note != strings.Repeat("ä", keptText/2) || !strings.Contains(string(after.Shorten), `"of":900`) {
		t.Errorf("%+v", after)
	}
	if string(before.Shorten) == string(after.Shorten) {
		t.Errorf("the change is not seen: %s", after.Shorten)
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
	ids := make([]string, maxIDs+150)
	if e := (Entry{IDs: ids}).fit(); len(e.IDs) != maxIDs || e.MoreIDs != 150 {
		t.Errorf("%d ids and %d more", len(e.IDs), e.MoreIDs)
	}
}
