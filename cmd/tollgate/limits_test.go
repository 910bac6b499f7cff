package main

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/connect/redistest"
)

// limitsShown is what limits show says of the month of key_jobs.
type limitsShown struct {
	Size, Spent, Held, Left int64
	Grants                  int
}

func (h *held) limits(t *testing.T, args ...string) (code int, out, stderr string) {
	t.Helper()
	return command(t, append(args, "--store", "unix://"+h.redis.Socket, "--policy", h.replicas[0].policy)...)
}

func (h *held) month(t *testing.T) (m limitsShown) {
	t.Helper()
	code, out, stderr := h.limits(t, "limits", "show", "key_jobs", "-o", "json")
	var shown struct {
		Limits []struct {
			Name                    string
			Size, Spent, Held, Left int64
		}
		Grants []any
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil || code != exit.CodeOK {
		t.Fatalf("%d, %s %s, %v", code, out, stderr, err)
	}
	for _, l := range shown.Limits {
		if l.Name == "month" {
			m = limitsShown{l.Size, l.Spent, l.Held, l.Left, len(shown.Grants)}
		}
	}
	return m
}

// spendMonth sends requests, several at once, until so many were allowed, or until none is: till 0.
// It returns how many were.
func (h *held) spendMonth(t *testing.T, till int64) int64 {
	t.Helper()
	var allowed, refused atomic.Int64
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for (till == 0 || allowed.Load() < till) && refused.Load() < 64 {
				switch status := h.ask(t, "/v1/jobs/fast"); status {
				case 200:
					allowed.Add(1)
					refused.Store(0)
				case 429:
					refused.Add(1)
				default:
					t.Errorf("status %d", status)
					return
				}
			}
		})
	}
	work.Wait()
	return allowed.Load()
}

// Two servers hold leases of a month while it is granted more, reset, and granted no more: to the
// unit, what was allowed is what the limits said, and what is counted is what was allowed.
func TestResetAndGrantWithLeasesOut(t *testing.T) {
	redistest.Need(t)
	h := startHeld(t, jobsPolicy(t, 1_000_000, 0, ""), "tollgate", "tollgate")
	mustRun := func(args ...string) {
		t.Helper()
		if code, out, stderr := h.limits(t, args...); code != exit.CodeOK {
			t.Fatalf("%v: %d, %s%s", args, code, out, stderr)
		}
	}
	mustRun("keys", "update", "key_jobs", "--limit", "month=3000")
	eventually(t, "the key's own size", func() bool { return h.month(t).Size == 3000 && h.ask(t, "/v1/jobs/fast") == 200 })

	first := h.spendMonth(t, 1500)
	before := h.month(t)
	if before.Held == 0 || before.Spent < first || before.Size != 3000 {
		t.Fatalf("%+v after %d: no leases are out", before, first)
	}
	mustRun("limits", "reset", "key_jobs", "--limit", "month", "--limit", "minute")
	if after := h.month(t); after.Spent != 0 || after.Held != 0 {
		t.Errorf("%+v after the reset, nobody spends", after)
	}

	// 3,000 from here on, and 500 more while they are granted.
	second := h.spendMonth(t, 1000)
	if h.month(t).Held == 0 {
		t.Error("no leases are out")
	}
	until := time.Now().Add(time.Hour)
	mustRun("limits", "grant", "key_jobs", "--limit", "month=+500", "--until", until.Format(time.RFC3339))
	if m := h.month(t); m.Size != 3500 || m.Grants != 1 {
		t.Errorf("%+v", m)
	}
	second += h.spendMonth(t, 0)
	if second != 3500 {
		t.Errorf("%d were allowed since the reset, want 3,500", second)
	}
	if m := h.month(t); m.Spent != 3500 || m.Held != 0 || m.Left != 0 {
		t.Errorf("%+v at the end", m)
	}

	// A server that is started anew knows of the grant; one that ends by itself is known to all.
	h.replicas[0].terminate(t)
	h.replicas[0].start(t)
	end := time.Now().Add(4 * time.Second).Truncate(time.Second)
	mustRun("limits", "grant", "key_jobs", "--limit", "month=+200", "--until", end.Format(time.RFC3339))
	third := h.spendMonth(t, 100)
	if time.Now().Before(end) && third < 100 {
		t.Errorf("%d were allowed by the second grant", third)
	}
	eventually(t, "the end of the second grant", func() bool { return h.month(t).Size == 3500 })
	if status := h.ask(t, "/v1/jobs/fast"); status != 429 {
		t.Errorf("status %d after the end", status)
	}
	mustRun("limits", "grant", "key_jobs", "--limit", "month=none")
	if m := h.month(t); m.Size != 3000 || m.Grants != 0 || m.Left != 0 {
		t.Errorf("%+v without grants", m)
	}

	// The refusals that both servers remember end with a reset.
	mustRun("limits", "reset", "key_jobs", "--limit", "month")
	if n := h.spendMonth(t, 0); n != 3000 {
		t.Errorf("%d were allowed after the last reset", n)
	}
}

// A server that is cut off keeps what it holds: it stays counted over a reset, once.
func TestResetWithoutAServer(t *testing.T) {
	redistest.Need(t)
	h := startHeld(t, jobsPolicy(t, 1_000_000, 0, ""), "tollgate")
	h.spendMonth(t, 3000)
	held := h.month(t).Held
	if held == 0 {
		t.Fatal("no lease is out")
	}
	h.replicas[0].kill(t)
	code, out, stderr := h.limits(t, "limits", "reset", "key_jobs", "--limit", "month")
	if want := fmt.Sprintf("month: %d of 100000 spent, which servers hold; it was ", held); code != exit.CodeOK || len(out) < len(want) || out[:len(want)] != want {
		t.Fatalf("%d, %s%s, want %s", code, out, stderr, want)
	}
	if m := h.month(t); m.Spent != held || m.Held != held {
		t.Errorf("%+v, want %d held", m, held)
	}
	// Nobody comes to give it back; another reset neither hands it out nor counts it again.
	if code, _, stderr := h.limits(t, "limits", "reset", "key_jobs", "--limit", "month"); code != exit.CodeOK {
		t.Fatal(stderr)
	}
	if m := h.month(t); m.Spent != held || m.Held != held {
		t.Errorf("%+v after another reset, want %d held", m, held)
	}
}
