package extauthz

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The native buckets of a histogram: 8 for each doubling, so that neighbours differ by 9 % (schema
// 3 of https://prometheus.io/docs/specs/native_histograms/), from 2⁻²⁰ s, about a microsecond, to
// 2⁵ s. What took less is in the zero bucket, what took more in the last one.
const (
	histogramSchema  = 3
	bucketsPerDouble = 1 << histogramSchema
	lowestExponent   = -20
	highestExponent  = 5
	nativeBuckets    = (highestExponent - lowestExponent) * bucketsPerDouble
)

// histogram counts durations, in classic buckets and in native ones beside them. It has a fixed
// size of 1.7 KB. client_golang's own takes twice as long for an observation once it has native
// buckets, and each check observes one.
type histogram struct {
	bounds  []time.Duration // upper bounds of the classic buckets, rising
	began   time.Time
	classic []atomic.Uint64 // one for each bound; what is above them is only in native ones
	zero    atomic.Uint64
	native  [nativeBuckets]atomic.Uint64
	sum     atomic.Int64 // in nanoseconds
}

func newHistogram(bounds []time.Duration) *histogram {
	return &histogram{bounds: bounds, began: time.Now(), classic: make([]atomic.Uint64, len(bounds))}
}

// observe counts a duration; one below zero counts as zero.
func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	h.sum.Add(int64(d))
	if place := nativeBucket(d); place < 0 {
		h.zero.Add(1)
	} else {
		h.native[place].Add(1)
	}
	// After the native one: a reader, who goes the other way, never sees more of these.
	for i, bound := range h.bounds {
		if d <= bound {
			h.classic[i].Add(1)
			return
		}
	}
}

// nativeBucket returns the place of the bucket of a duration, less than 0 for the zero bucket.
func nativeBucket(d time.Duration) int {
	fraction, exponent := math.Frexp(d.Seconds()) // 0.5 to 1, times a power of 2
	switch {
	case d == 0 || exponent <= lowestExponent:
		return -1
	case exponent > highestExponent:
		return nativeBuckets - 1
	}
	// A bucket has its upper bound within: 2^(n/8) for a whole n.
	within := 0
	for within < bucketsPerDouble && fraction > bucketBounds[within] {
		within++
	}
	return (exponent-1-lowestExponent)*bucketsPerDouble + within - 1
}

// bucketBounds are the upper bounds of buckets as fractions: 2^(n/8-1).
var bucketBounds = [bucketsPerDouble]float64{
	0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048,
	0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711,
}

// metric returns what is counted as a metric with these labels.
func (h *histogram) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	return &histogramMetric{h, desc, prometheus.MakeLabelPairs(desc, labels)}
}

// histogramMetric is a histogram at a scrape.
type histogramMetric struct {
	*histogram
	desc   *prometheus.Desc
	labels []*dto.LabelPair
}

// Desc implements prometheus.Metric.
func (m *histogramMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m *histogramMetric) Write(out *dto.Metric) error {
	hist := &dto.Histogram{
		Schema: new(int32(histogramSchema)), ZeroThreshold: new(math.Ldexp(1, lowestExponent)),
	}
	below := uint64(0)
	for i, bound := range m.bounds {
		below += m.classic[i].Load()
		hist.Bucket = append(hist.Bucket, &dto.Bucket{UpperBound: new(bound.Seconds()), CumulativeCount: new(below)})
	}
	hist.SampleSum = new(time.Duration(m.sum.Load()).Seconds())
	zero := m.zero.Load()
	all := zero + m.writeNative(hist)
	hist.ZeroCount, hist.SampleCount = new(zero), new(all)
	out.Label, out.Histogram = m.labels, hist
	return nil
}

// writeNative writes the native buckets that hold something, and returns how much that is. A span
// says how many buckets it leaves out before it, the first one from bucket 0, whose upper bound is
// 1 s; a bucket is the difference from the one before.
func (m *histogramMetric) writeNative(to *dto.Histogram) (all uint64) {
	next := -lowestExponent*bucketsPerDouble - 1 // the place of bucket 0
	before := int64(0)
	for place := range m.native {
		n := int64(m.native[place].Load())
		if n == 0 {
			continue
		}
		all += uint64(n)
		if len(to.PositiveSpan) == 0 || place != next {
			to.PositiveSpan = append(to.PositiveSpan, &dto.BucketSpan{Offset: new(int32(place - next)), Length: new(uint32)})
		}
		*to.PositiveSpan[len(to.PositiveSpan)-1].Length++
		to.PositiveDelta = append(to.PositiveDelta, n-before)
		next, before = place+1, n
	}
	return all
}
