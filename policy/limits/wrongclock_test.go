package limits

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wrongClock is a real Redis whose own clock can be set wrong. The right time is that of its backend, which goes on from
// there and is put forward by pass.
type wrongClock struct {
	*backend
	file  string
	wrong time.Duration
}

func startWrongClock(t *testing.T) *wrongClock {
	t.Helper()
	compiler := "cc"
	if _, err := exec.LookPath(compiler); err != nil {
		if strings.Contains(os.Getenv("TOLLGATE_REQUIRE"), "redis") {
			t.Fatal("a C compiler is required and not on PATH: apt-get install -y gcc libc6-dev")
		}
		t.Skip("NOT TESTED WITH A REDIS WHOSE CLOCK JUMPS: no C compiler on PATH: apt-get install -y gcc libc6-dev")
	}
	dir := t.TempDir()
	library, file := filepath.Join(dir, "clock.so"), filepath.Join(dir, "offset")
	if out, err := exec.Command(compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, "testdata/clock.c").CombinedOutput(); err != nil {
		t.Fatalf("testdata/clock.c: %v\n%s", err, out)
	}
	c := &wrongClock{file: file}
	c.set(t, 0)
	c.backend = startRedis(t, "LD_PRELOAD="+library, "CLOCK_OFFSET_FILE="+file)
	return c
}

// set has the clock be wrong by that much. It is written in one step, into the same file.
func (c *wrongClock) set(t *testing.T, wrong time.Duration) {
	t.Helper()
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(wrong.Microseconds())), 0); err != nil {
		t.Fatal(err)
	}
	c.wrong = wrong
}

// right is the right time.
func (c *wrongClock) right() time.Time { return time.Now().Add(c.now()).UTC() }

// The clock of a real Redis is wrong for two seconds, by a second up to 400 days, while replicas use a limit and after: at
// most one limit more is allowed, a second later all is shown and refused as if nothing had been, and the window after
// is a new one.
func TestRedisClockJumps(t *testing.T) {
	c := startWrongClock(t)
	seen, err := c.client.Time(t.Context()).Result()
	if err != nil || time.Since(seen).Abs() > time.Minute {
		t.Fatal(seen, err)
	}
	c.set(t, 400*24*time.Hour)
	if seen, err = c.client.Time(t.Context()).Result(); err != nil || time.Until(seen) < 399*24*time.Hour {
		t.Fatalf("the clock cannot be set: %v, %v", seen, err)
	}
	c.set(t, 0)
	for _, size := range []time.Duration{time.Second, 61 * time.Second, time.Hour, 32 * 24 * time.Hour, 400 * 24 * time.Hour} {
		for _, size := range []time.Duration{size, -size} {
			for per := Second; per <= Month; per++ {
				for _, exact := range []bool{false, true} {
					t.Run(fmt.Sprintf("%v per %v, exact=%v", size, per, exact), func(t *testing.T) { c.jump(t, size, per, exact) })
				}
			}
		}
	}
}

func (c *wrongClock) jump(t *testing.T, size time.Duration, per Unit, exact bool) {
	const limit = 2000
	windows := one(limit, per)
	c.at(t, clock(t, "2026-01-15T12:30:20.05Z"))
	replicas := []*Leases{c.leases(t, Options{Exact: exact}), c.leases(t, Options{Exact: exact})}
	allowed := map[int64]int64{} // by the right clock
	ask := func(l *Leases, cost int64) Result {
		before, _ := windows[0].bounds(c.right().Unix())
		res := mustSpend(t, l, &Spend{ID: t.Name(), Windows: windows, Cost: cost})
		if after, _ := windows[0].bounds(c.right().Unix()); res.Allowed && before == after {
			allowed[before] += cost
		}
		return res
	}
	use := func(times int, cost int64) {
		for range times {
			for _, l := range replicas {
				ask(l, cost)
			}
		}
	}
	use(30, 1)
	c.set(t, size)
	use(10, 1)
	use(12, 100) // all of it
	c.pass(2 * time.Second)
	use(12, 100)
	c.set(t, 0)
	use(5, 1)
	c.pass(recheck + 100*time.Millisecond)
	for i, l := range replicas {
		begin, end := windows[0].Bounds(c.right())
		res := ask(l, 1)
		if _, now := windows[0].Bounds(c.right()); now != end {
			continue // asked over an edge
		}
		if !res.States[0].Reset.Equal(end) || !res.Allowed && RetryAfter(windows, res.States, 1, res.Now) > int64(end.Sub(begin)/time.Second) {
			t.Errorf("replica %d at %v: %+v", i, c.right(), res)
		}
	}
	for start, n := range allowed {
		if n > 2*limit {
			t.Errorf("%d of %d in the window of %v", n, limit, time.Unix(start, 0).UTC())
		}
	}
	_, end := windows[0].Bounds(c.right())
	if size == -time.Second {
		end = end.Add(time.Second) // a refusal may be believed for as much longer as the clock was behind
	}
	c.pass(end.Sub(c.right()) + 50*time.Millisecond)
	for i, l := range replicas {
		if res := ask(l, 1); !res.Allowed {
			t.Errorf("replica %d is refused in the next window: %+v", i, res)
		}
		if n := l.Stats().Jumps; n > 2 || n < 2 && size.Abs() > time.Minute {
			t.Errorf("replica %d counts %d jumps", i, n)
		}
	}
}
