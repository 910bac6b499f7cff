package memory

import (
	"errors"
	"math"
	"runtime"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	for _, test := range []struct {
		keys      int
		live      uint64
		container uint64
		err       error
		want      int64
	}{
		{0, 0, 0, nil, 128 << 20},
		{1_000_000, 400 << 20, 0, errors.New("no cgroup"), 128<<20 + 600_000_000},
		{1_000_000, 1 << 30, 0, nil, 3 << 29},           // half more than is in use
		{1_000_000, 1 << 30, 512 << 20, nil, 483183820}, // nine tenths
		{1_000, 0, 64 << 30, nil, 128<<20 + 600_000},
		{1_000_000, 0, 1 << 63, nil, 128<<20 + 600_000_000},
	} {
		if got := limit(test.keys, test.live, func() (uint64, error) { return test.container, test.err }); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

func TestPercentFor(t *testing.T) {
	for _, test := range []struct {
		live  uint64
		limit int64
		want  int
	}{
		{0, 1 << 30, 400},
		{4 << 20, math.MaxInt64, 3100}, // 128 MiB
		{16 << 20, 700 << 20, 700},
		{8 << 20, 230 << 20, 618}, // 57.5 MiB
		{8 << 20, 128 << 20, 400}, // 32 MiB would be 300
		{300 << 20, 700 << 20, 400},
	} {
		if got := percentFor(test.live, test.limit); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

func TestLiveHeap(t *testing.T) {
	runtime.GC() // it is known after the first
	if live := liveHeap(); live == 0 || live > 1<<40 {
		t.Errorf("%d bytes", live)
	}
}
