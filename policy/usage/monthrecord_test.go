package usage_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"tollgate/policy"
	"tollgate/policy/usage"
)

func randomMonth(random *rand.Rand) *usage.MonthRecord {
	number := func() uint64 {
		if random.IntN(2) == 0 {
			return 0
		}
		return random.Uint64() >> (11 + random.IntN(50))
	}
	day := func() *usage.DayUsage {
		d := &usage.DayUsage{}
		for _, route := range []string{"a", "bb", usage.OtherRoutes, usage.NoRoute}[:random.IntN(5)] {
			m := &d.Route(route).Measures
			m.Allowed, m.Denied, m.Cost = number(), number(), number()
			if random.IntN(2) == 0 {
				for i := range m.Status {
					m.Status[i] = number() >> 3
				}
			}
			if m.Observed() > 0 {
				m.BytesIn, m.BytesOut, m.Millis, m.MaxMillis, m.Slow = number(), number(), number(), number(), number()
			}
		}
		for _, reason := range []string{"rate_limited", "undecided", "a reason of tomorrow"}[:random.IntN(4)] {
			d.AddReason(reason, number())
		}
		return d
	}
	m := &usage.MonthRecord{}
	for n := range random.IntN(31) {
		if m.Days == nil {
			m.Days = map[int]*usage.DayUsage{}
		}
		m.Days[n+1] = day()
	}
	if random.IntN(2) == 0 {
		m.Rest = day()
	}
	return m
}

func TestMonthRecordRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		m := randomMonth(random)
		data := m.Encode()
		got, err := usage.DecodeMonth(data)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%x: %v\n%+v, want\n%+v", data, err, got, m)
		}
		for range 20 { // what is cut off is noticed
			if _, err := usage.DecodeMonth(data[:1+random.IntN(len(data)-1)]); err == nil && len(data) > 3 {
				t.Fatalf("%x is read though it is cut off", data)
			}
		}
		total := m.Total()
		if m.Trim(); !reflect.DeepEqual(m.Total(), total) || m.Days != nil {
			t.Fatalf("trimming changes the sum")
		}
	}
	if m, err := usage.DecodeMonth(nil); err != nil || !reflect.DeepEqual(m, &usage.MonthRecord{}) {
		t.Error(m, err)
	}
}

// Each reason has a byte of its own, and none moves: records of months outlive versions.
func TestReasonsHavePlaces(t *testing.T) {
	for i, reason := range policy.Reasons() {
		if reason == policy.Allowed {
			continue
		}
		m := usage.MonthRecord{Rest: &usage.DayUsage{Reasons: []usage.ReasonCount{{Reason: reason.String(), N: 1}}}}
		data := m.Encode()
		if place := data[len(data)-2]; place == 0 || len(data) != 8 {
			t.Errorf("reason %d, %s: no place in %x", i, reason, data)
		}
	}
	for place, want := range map[byte]string{1: "unknown_api", 12: "rate_limited", 13: "quota_exceeded", 17: "concurrency_exceeded", 18: "invalid_token", 20: "insufficient_scope", 200: "reason 200"} {
		data := []byte{1, 0, 1, 0, 0, 1, place, 5}
		m, err := usage.DecodeMonth(data)
		if err != nil || m.Rest.Reasons[0].Reason != want {
			t.Fatalf("%d: %v %v, want %s", place, m, err, want)
		}
		if !bytes.Equal(m.Encode(), data) {
			t.Errorf("%d: %x, want %x", place, m.Encode(), data)
		}
	}
}

// FuzzDecodeMonth: whatever stands in the store, it is a record that is the same when it is written
// again, or an error.
func FuzzDecodeMonth(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		f.Add(randomMonth(random).Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := usage.DecodeMonth(data)
		if err != nil {
			return
		}
		again, err := usage.DecodeMonth(m.Encode())
		if err != nil {
			t.Fatalf("%x: %v", data, err)
		}
		if !bytes.Equal(again.Encode(), m.Encode()) {
			t.Errorf("%x: %+v, then %+v", data, m, again)
		}
	})
}
