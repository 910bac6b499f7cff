package store

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keystest"
)

func TestRecordRoundTrip(t *testing.T) {
	full := keystest.FullKey()
	// A field that the record forgets would come back empty: no field of the full key may be.
	for i := range reflect.TypeFor[keys.Key]().NumField() {
		name := reflect.TypeFor[keys.Key]().Field(i).Name
		if name != "LastUsed" && name != "Client" && reflect.ValueOf(*full).Field(i).IsZero() {
			t.Fatalf("FullKey leaves %s out", name)
		}
	}
	for _, k := range []*keys.Key{keystest.Sample(), full, clientOf("web", 1)} { // no key has a Client
		data, err := EncodeRecord(k)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRecord(data)
		if err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("%s came back as %+v, %v", data, got, err)
		}
	}
	elsewhere := keystest.Sample(func(k *keys.Key) { k.ExpiresAt = time.Date(2026, 1, 1, 1, 0, 0, 0, time.FixedZone("", 3600)) })
	data, _ := EncodeRecord(elsewhere)
	if !strings.Contains(string(data), `"expires_at":"2026-01-01T00:00:00Z"`) {
		t.Errorf("not in UTC: %s", data)
	}
	if _, err := EncodeRecord(keystest.Sample(func(k *keys.Key) { k.Name = "" })); err == nil {
		t.Error("an invalid key was encoded")
	}
}

func TestRecordForm(t *testing.T) {
	data, _ := EncodeRecord(keystest.Sample())
	const want = `{"id":"key_pb_full","api":"pixelbyte","team":"team_orbit","name":"Render farm","limit_id":"key_pb_full","status":"active","anchor_day":1,"version":1,"hash":"hmac-sha256:0102030000000000000000000000000000000000000000000000000000000000"}`
	if string(data) != want {
		t.Errorf("record is %s", data)
	}
}

func TestRecordIsStrict(t *testing.T) {
	data, _ := EncodeRecord(keystest.FullKey())
	good := string(data)
	for _, test := range []struct{ old, new, want string }{
		{`{"id"`, `{"color":1,"id"`, "unknown field"},
		{`"requests":5`, `"requests":5,"per":"day"`, "unknown field"},
		{`"status":"inactive"`, `"status":"inactive","status":"active"`, `repeated field "status"`},
		{`"status":"inactive"`, `"status":"inactive","Status":"active"`, `field "Status"`},
		{`"status":"inactive"`, `"status":"inactive","ſtatus":"active"`, `field "ſtatus"`},
		{`"status":"inactive"`, `"status":"inactive","\u0073tatus":"active"`, "field"},
		{`"note":"été"`, `"note":"\"{\\","status" : "active"`, `repeated field "status"`},
		{`"requests":5`, `"requests":5,"requests":6`, `repeated field "requests"`},
		{`"status":"inactive"`, `"status":"gone"`, `status: "gone"`},
		{`"status":"inactive"`, `"status":true`, "not a record"},
		{`"version":7`, `"version":"7"`, "not a record"},
		{`"version":7`, `"version":7.5`, "not a record"},
		{`"version":7,`, ``, "version: 0"},
		{`"10.0.0.0/8"`, `"10.0.0.1/8"`, "ips[0]: "},
		{`"2001:db8::1/128"`, `"x"`, `ips[1]: "x"`},
		{`"expires_at":"2026-`, `"expires_at":"soon-`, "not a record"},
		{`hmac-sha256:`, `md5:`, "hash: "},
		{`"name":"Render farm"`, `"name":""`, "name: is empty"},
		{`"anchor_day":31`, `"anchor_day":32`, "anchor_day: "},
		{good, good + good, "text after its end"},
		{good, good + "x", "text after its end"},
		{good, good[:len(good)-1], "not a record"},
		{good, "", "not a record"},
		{good, "null", "hash: "},
		{good, "[]", "not a record"},
	} {
		if !strings.Contains(good, test.old) {
			t.Fatalf("nothing to break: %s", test.old)
		}
		_, err := decodeRecord([]byte(strings.Replace(good, test.old, test.new, 1)))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s → %s: %v, want %s", test.old, test.new, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), keystest.FullKey().Digest.Hex()) {
			t.Errorf("the error shows the digest: %v", err)
		}
	}
}

func TestRecordOfAPlainHash(t *testing.T) {
	data, err := EncodeRecord(keystest.Sample(func(k *keys.Key) { k.Algorithm = keys.AlgorithmSHA256 }))
	if err != nil || !strings.Contains(string(data), `"sha256:`) {
		t.Fatalf("%s, %v", data, err)
	}
	if got, err := decodeRecord(data); err != nil || got.Algorithm != keys.AlgorithmSHA256 {
		t.Errorf("%+v, %v", got, err)
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	data, _ := EncodeRecord(keystest.FullKey())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeRecord(data); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	data, _ := EncodeRecord(keystest.FullKey())
	f.Add(data)
	f.Add([]byte(`{"id":"key_abcd","status":"a\"b:{","limits":[{}]}`))
	f.Add([]byte(`"a":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := EncodeRecord(k)
		if err != nil {
			t.Fatalf("decoded but not encoded: %v", err)
		}
		if back, err := decodeRecord(again); err != nil || back.Digest != k.Digest || back.Status != k.Status {
			t.Fatalf("%s does not come back: %v", again, err)
		}
	})
}
