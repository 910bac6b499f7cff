package load

import (
	"math/bits"
	"time"
)

// subBuckets is how many buckets there are for each power of two.
const (
	subBits    = 6
	subBuckets = 1 << subBits
)

// Histogram counts durations in buckets that are at most 1/64 (1.6 %) wide, so that
// every percentile has that precision whatever its size. The zero value is empty.
type Histogram struct {
	counts [(64 - subBits + 1) << subBits]uint64
	total  uint64
}

// Add counts one duration; a negative one counts as 0.
func (h *Histogram) Add(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.total++
}

// Merge adds what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// Quantile returns the duration that a fraction q of all did not exceed: the upper
// end of its bucket. It is 0 if the histogram is empty.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := max(uint64(q*float64(h.total)+0.5), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return upper(i)
		}
	}
	return upper(len(h.counts) - 1)
}

func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	exponent := bits.Len64(v) - 1 - subBits
	return exponent<<subBits + int(v>>exponent)
}

// upper returns the largest duration of a bucket.
func upper(i int) time.Duration {
	if i < 2*subBuckets {
		return time.Duration(i)
	}
	exponent := i>>subBits - 1
	return time.Duration((uint64(i-exponent<<subBits)+1)<<exponent - 1)
}
