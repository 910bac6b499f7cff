package api

import (
	"container/list"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How often something may be tried, in each process.
const (
	failedLogins      = 1.0 / 6 // a second, of an IPv4 address or a /64 of IPv6
	failedLoginsBurst = 10
	writesPerSecond   = 10 // of a member
	writesBurst       = 100
	// throttled is how many are remembered; the one that has been quiet longest is forgotten.
	throttled = 10_000
)

// throttle gives each name a token bucket. It is safe for concurrent use.
type throttle struct {
	every rate.Limit
	burst int

	mu    sync.Mutex
	names map[string]*list.Element // of *bucket
	order *list.List               // the latest first
}

type bucket struct {
	name    string
	limiter *rate.Limiter
}

func newThrottle(perSecond rate.Limit, burst int) *throttle {
	return &throttle{every: perSecond, burst: burst, names: map[string]*list.Element{}, order: list.New()}
}

// take takes one token, and returns how long to wait where there is none.
func (t *throttle) take(name string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.bucket(name)
	if l.AllowN(now, 1) {
		return 0
	}
	return t.wait(l, now)
}

// spent returns how long to wait until there is a token, which stays.
func (t *throttle) spent(name string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.names[name]
	if !ok {
		return 0
	}
	return t.wait(at.Value.(*bucket).limiter, now)
}

func (t *throttle) wait(l *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Duration(missing/float64(t.every)*float64(time.Second)), time.Millisecond)
}

func (t *throttle) bucket(name string) *rate.Limiter {
	if at, ok := t.names[name]; ok {
		t.order.MoveToFront(at)
		return at.Value.(*bucket).limiter
	}
	if t.order.Len() >= throttled {
		oldest := t.order.Back()
		delete(t.names, oldest.Value.(*bucket).name)
		t.order.Remove(oldest)
	}
	b := &bucket{name, rate.NewLimiter(t.every, t.burst)}
	t.names[name] = t.order.PushFront(b)
	return b.limiter
}

// seconds is a wait as Retry-After has it, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
