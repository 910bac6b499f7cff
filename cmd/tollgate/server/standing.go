package server

import (
	"log/slog"
	"time"

	"tollgate/cmd/tollgate/exit"
	"tollgate/policy/keys/standing"
)

// repeatAlarm is how often it is said again that the store was emptied, or has another
// pepper.
const repeatAlarm = time.Minute

// standingLog says in the log what becomes of the store: each thing when it begins, and
// when it is over.
type standingLog struct {
	log   *slog.Logger
	now   func() time.Time
	last  standing.State
	alarm time.Time // when the last was
}

func (l *standingLog) tell(s standing.State) {
	last, now := l.last, l.now()
	l.last = s
	again := now.Sub(l.alarm) >= repeatAlarm
	switch {
	case s.Pepper != nil && (last.Pepper == nil || again):
		l.alarm = now
		what := "THE PEPPER IS NOT THAT OF THE KEYS IN THE STORE: none of them will be found, and requests are undecided"
		if s.Fits {
			what = "THE PEPPER OF THE KEYS IN THE STORE HAS CHANGED: what is found is served, what is not is undecided"
		}
		l.log.Error(what, slog.String("problem", exit.Plain(s.Pepper).Error()))
	case s.Pepper == nil && last.Pepper != nil:
		l.log.Info("the pepper is that of the keys in the store")
	}
	switch {
	case s.Emptied && (!last.Emptied || again):
		l.alarm = now
		l.log.Error("THE STORE WAS EMPTIED: what is in memory goes on for stale_for, all else is undecided, until its data is back, the keys of --keys are, " +
			"or it is accepted with tollgate store accept-empty")
	case last.Emptied && !s.Emptied:
		l.log.Warn("the store is taken as it is from now on; keys that it does not know are refused again")
	}
	if s.Adopted && !last.Adopted {
		l.log.Info("the pepper has changed: keys are hashed anew as they are used")
	}
	l.change("the store takes no writes: what has to be counted follows failure_mode", "the store takes writes again", last.Writes, s.Writes)
	l.change("the user of the store may not see whether it was emptied or drops keys; give it the rights of tollgate store acl server", "the user of the store may see all now", last.Unseen, s.Unseen)
	if s.Evicts != last.Evicts && s.Evicts != "" {
		l.log.Warn("the store drops keys and counters when its memory is full, so that a limit can start anew: set maxmemory-policy to noeviction", slog.String("maxmemory_policy", s.Evicts))
	}
}

func (l *standingLog) change(begins, ends string, last, now error) {
	switch {
	case now != nil && last == nil:
		l.log.Warn(begins, slog.Any("error", now))
	case now == nil && last != nil:
		l.log.Info(ends)
	}
}
