package extauthz

import (
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A histogram says of the same durations what client_golang's says, in classic and in native
// buckets.
func TestHistogramIsThatOfTheLibrary(t *testing.T) {
	ours := newHistogram(checkBounds[:])
	bounds := make([]float64, len(checkBounds))
	for i, b := range checkBounds {
		bounds[i] = b.Seconds()
	}
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "h", Help: "h", Buckets: bounds, NativeHistogramBucketFactor: 1.1, NativeHistogramZeroThreshold: math.Ldexp(1, lowestExponent),
	})
	durations := append([]time.Duration{0, 1, 900, 954, 955, time.Microsecond, time.Second, 2 * time.Second, 32 * time.Second, -5}, checkBounds[:]...)
	for d := time.Microsecond; d < 30*time.Second; d += d/50 + 1 {
		durations = append(durations, d)
	}
	for _, d := range durations {
		ours.observe(d)
		theirs.Observe(max(d, 0).Seconds())
	}
	got, want := &dto.Metric{}, &dto.Metric{}
	if err := ours.metric(prometheus.NewDesc("h", "h", nil, nil)).Write(got); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Write(want); err != nil {
		t.Fatal(err)
	}
	g, w := got.GetHistogram(), want.GetHistogram()
	if math.Abs(g.GetSampleSum()-w.GetSampleSum()) > 1e-6 {
		t.Errorf("sum %v, want %v", g.GetSampleSum(), w.GetSampleSum())
	}
	g.SampleSum, w.SampleSum, g.CreatedTimestamp, w.CreatedTimestamp = nil, nil, nil, nil
	if g.String() != w.String() {
		t.Errorf("%v\nwant %v", g, w)
	}
}

// What is longer than the last bucket counts in it.
func TestHistogramIsBounded(t *testing.T) {
	h := newHistogram(checkBounds[:])
	for _, d := range []time.Duration{33 * time.Second, time.Hour, math.MaxInt64} {
		h.observe(d)
	}
	if n := h.native[nativeBuckets-1].Load(); n != 3 {
		t.Errorf("%d in the last bucket", n)
	}
	if n := testing.AllocsPerRun(100, func() { h.observe(50 * time.Microsecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHistogram(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		h := newHistogram(checkBounds[:])
		for b.Loop() {
			h.observe(50 * time.Microsecond)
		}
	})
	for name, factor := range map[string]float64{"classic of the library": 0, "both of the library": 1.1} {
		b.Run(name, func(b *testing.B) {
			h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "h", Buckets: []float64{1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, .1, .3}, NativeHistogramBucketFactor: factor})
			b.ReportAllocs()
			for b.Loop() {
				h.Observe(50e-6)
			}
		})
	}
}
