package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/keystest"
	"tollgate/policy/keys/store"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"
)

// anyKey draws a key whose every field could be there.
func anyKey(t *rapid.T, i int) *keys.Key {
	pick := func(what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
	at := func(what string) time.Time {
		n := rapid.Int64Range(0, 4_000_000_000).Draw(t, what)
		if n%5 == 0 {
			return time.Time{}
		}
		return time.Unix(n, n%3).UTC()
	}
	id := fmt.Sprintf("key_%06d", i)
	k := &keys.Key{
		ID: id, API: pick("api", "pictify", "genapi"), Team: pick("team", "", "orbit", "acme", "a: b"), Plan: pick("plan", "free", "pro"),
		Name: pick("name", "CI", "no", "null", `a "quoted" \ one`, "été — ☂", "- x", "# y", "{a}", "1.50", " a", "<b>&"),
		Note: pick("note", "", "yes", "see: below", "'", "123", "true"), Environment: pick("environment", "", "live", "test"),
		LimitID: pick("limit id", id, "shared-1", "0x10", "1e3"), CreatedBy: pick("by", "", "ada", "key@x"),
		RotatedFrom: pick("from", "", "key_before"), RotatedTo: pick("to", "", "key_after"),
		Scopes:    rapid.SampledFrom([][]string{nil, {"read"}, {"read", "jobs:write", "-", "null"}}).Draw(t, "scopes"),
		Limits:    rapid.SampledFrom([][]keys.Override{nil, {{Name: "minute", Requests: 0}}, {{Name: "per day", Requests: 5}, {Name: "no", Requests: 1 << 40}}}).Draw(t, "limits"),
		Status:    rapid.SampledFrom([]keys.Status{keys.Active, keys.Inactive, keys.Revoked}).Draw(t, "status"),
		ExpiresAt: at("expires"), RetiresAt: at("retires"), CreatedAt: at("created"), UpdatedAt: at("updated"),
		AnchorDay: rapid.IntRange(1, 31).Draw(t, "day"), Version: rapid.Int64Range(1, 1<<40).Draw(t, "version"),
		Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.NewHasher(nil).Digest(id),
	}
	if n := rapid.IntRange(0, 2).Draw(t, "ips"); n > 0 {
		keystest.WithIPs([]string{"10.0.0.0/8", "2001:db8::1"}[:n]...)(k)
	}
	return k
}

// What Export writes, Import makes again, byte for byte.
func TestExportAndImportMakeTheSameStore(t *testing.T) {
	h := keys.NewHasher([]byte("pepper"))
	rapid.Check(t, func(r *rapid.T) {
		c := keystest.NewEmbedded(t)
		m := transferManager(c, h)
		n := rapid.IntRange(0, 12).Draw(r, "n")
		for i := range n {
			if err := m.store.Create(t.Context(), anyKey(r, i)); err != nil {
				r.Fatal(err)
			}
		}
		for _, format := range []ExportFormat{ExportJSONLines, ExportYAML} {
			var out, again bytes.Buffer
			if exported, err := m.Export(t.Context(), &out, format, store.Filter{}); err != nil || exported != n {
				r.Fatalf("%d of %d, %v", exported, n, err)
			}
			m.Export(t.Context(), &again, format, store.Filter{})
			if out.String() != again.String() {
				r.Fatal("two exports differ")
			}
			if n == 0 && format == ExportJSONLines {
				continue
			}
			records := fromLines(out.String())
			if format == ExportYAML {
				records = fromYAML(out.String())
				if entries, err := keyfile.ParseFile("export", out.Bytes()); err != nil || len(entries) != n {
					r.Fatalf("ParseFile: %v\n%s", err, out.String())
				}
			}
			empty := keystest.NewEmbedded(t)
			report, err := transferManager(empty, h).Import(t.Context(), records, ImportOptions{})
			if err != nil || report.Created != n {
				r.Fatalf("%+v, %v\n%s", report, err, out.String())
			}
			same(t, string(format), keystest.Dump(t, empty), keystest.Dump(t, c))
		}
		if t.Failed() {
			r.Fatal("stores differ")
		}
	})
}

func TestExportFiltersAndSorts(t *testing.T) {
	keystest.OnEveryStore(t, asCommand(), func(t *testing.T, c redis.UniversalClient) {
		m := transferManager(c, keys.NewHasher(nil))
		var want []string
		var ks []*keys.Key
		for i := range 1100 {
			id := fmt.Sprintf("key_%04d", i)
			k := keystest.Sample(func(k *keys.Key) {
				k.ID, k.LimitID, k.API, k.Team, k.Digest = id, id, "pictify", "orbit", m.hasher.Digest(id)
				if i%3 == 0 {
					k.Team = "acme"
				}
			})
			if k.Team == "acme" {
				want = append(want, id)
			}
			ks = append(ks, k)
		}
		rand.Shuffle(len(ks), func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
		for chunk := range slices.Chunk(ks, 500) {
			if err := errors.Join(m.store.CreateAll(t.Context(), chunk)...); err != nil {
				t.Fatal(err)
			}
		}
		c.Set(t.Context(), keystest.RecordKey("key_0003"), "{", 0)
		var out bytes.Buffer
		n, err := m.Export(t.Context(), &out, ExportJSONLines, store.Filter{API: "pictify", Team: "acme"})
		var corrupt *keys.CorruptError
		if n != len(want)-1 || !errors.As(err, &corrupt) || corrupt.ID != "key_0003" {
			t.Errorf("%d keys, %v", n, err)
		}
		var got []string
		for r, err := range fromLines(out.String()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Key.ID)
		}
		want = slices.DeleteFunc(want, func(id string) bool { return id == "key_0003" })
		if !slices.Equal(got, want) {
			t.Errorf("%d ids, sorted: %v", len(got), slices.IsSorted(got))
		}
	})
}

func TestExportFails(t *testing.T) {
	c := keystest.NewEmbedded(t)
	m := transferManager(c, keys.NewHasher(nil))
	if _, err := m.Import(t.Context(), many(400), operator("pictify")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Export(t.Context(), brokenWriter{}, ExportYAML, store.Filter{}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
	if _, err := m.Export(t.Context(), brokenWriter{}, "xml", store.Filter{}); err == nil || err.Error() != `format: "xml" is not jsonl or yaml` {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Export(ctx, &bytes.Buffer{}, ExportYAML, store.Filter{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
