package main

import (
	"errors"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	for _, test := range []struct {
		keys      int
		container uint64
		err       error
		want      int64
	}{
		{0, 0, nil, 128 << 20},
		{1_000_000, 0, errors.New("no cgroup"), 128<<20 + 600_000_000},
		{1_000_000, 512 << 20, nil, 483183820}, // nine tenths
		{1_000, 64 << 30, nil, 128<<20 + 600_000},
		{1_000_000, 1 << 63, nil, 128<<20 + 600_000_000},
	} {
		if got := memoryLimit(test.keys, func() (uint64, error) { return test.container, test.err }); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}
