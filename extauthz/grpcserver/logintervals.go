package grpcserver

import (
	"strings"
	"sync/atomic"
	"time"

	"tollgate/extauthz"
)

const (
	// maxFollowed bounds the requests of all streams of which it is known when they were last told
	// of, some 200 bytes each.
	maxFollowed = 16 << 10
	// shortInterval is not worth to be known: no log need tell of a request more often.
	shortInterval = 300 * time.Millisecond
)

// logIntervals measures how long one stream is silent about requests that hold places. Envoy sends
// all entries of a request on one stream, that of its worker, so a request that began before the
// stream was opened may have been told of on another one: of such a one the first entry here says
// nothing.
type logIntervals struct {
	opened time.Time
	latest map[string]time.Time // when a request that goes on was last told of, by its decision
	all    *atomic.Int64        // requests in latest of all streams
}

// of returns the interval that an entry ends; ok is false where it is not known.
func (l *logIntervals) of(e *extauthz.AccessLogEntry, now time.Time) (interval time.Duration, ok bool) {
	if e.SlotID == "" || !e.Periodic && e.Duration < shortInterval {
		return 0, false
	}
	last, known := l.latest[e.DecisionID]
	switch {
	case known:
		interval, ok = now.Sub(last), true
	case e.Start.Before(l.opened):
	case e.Periodic:
		interval, ok = max(now.Sub(e.Start), 0), true // by two clocks
	default:
		interval, ok = e.Duration, true
	}
	if e.Periodic {
		l.follow(e.DecisionID, known, now)
	} else if known {
		delete(l.latest, e.DecisionID)
		l.all.Add(-1)
	}
	return interval, ok
}

func (l *logIntervals) follow(decision string, known bool, now time.Time) {
	if !known {
		if l.all.Add(1) > maxFollowed {
			l.all.Add(-1)
			return
		}
		if l.latest == nil {
			l.latest = map[string]time.Time{}
		}
		decision = strings.Clone(decision) // of the text of a whole message
	}
	l.latest[decision] = now
}

// end forgets the requests of the stream.
func (l *logIntervals) end() {
	l.all.Add(-int64(len(l.latest)))
	l.latest = nil
}
