package grpcserver

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"tollgate/extauthz"
)

// maxLogSenders bounds what is known of Envoys that send logs.
const maxLogSenders = 1024

// senderName tells logs apart.
type senderName struct{ node, log, address string }

// logSenders knows the logs that Envoys send, also for the time between two streams. It is safe for
// concurrent use.
type logSenders struct {
	mu    sync.Mutex
	known map[senderName]*logSender
}

// logSender is one of them. A nil one stands for what sent nothing.
type logSender struct {
	mu        sync.Mutex
	log       extauthz.AccessLog
	intervals extauthz.LongestIntervals
}

func newLogSenders() *logSenders { return &logSenders{known: map[senderName]*logSender{}} }

// opened notes another stream of a log.
func (s *logSenders) opened(node, name []byte, address string, now time.Time) *logSender {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := senderName{string(bounded(node)), string(bounded(name)), address}
	sender := s.known[id]
	if sender == nil {
		if len(s.known) >= maxLogSenders {
			s.forgetOldest()
		}
		sender = &logSender{log: extauthz.AccessLog{Node: id.node, Name: id.log, Address: id.address, First: now, LagSeconds: -1}}
		s.known[id] = sender
	}
	sender.mu.Lock()
	defer sender.mu.Unlock()
	sender.log.Streams++
	sender.log.Opened++
	return sender
}

// forgetOldest makes room. A stream whose log is forgotten goes on.
func (s *logSenders) forgetOldest() {
	var oldest senderName
	var latest time.Time
	for id, sender := range s.known {
		if at := sender.latest(); latest.IsZero() || at.Before(latest) {
			oldest, latest = id, at
		}
	}
	delete(s.known, oldest)
}

// all returns what is known of each log.
func (s *logSenders) all(now time.Time) []extauthz.AccessLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]extauthz.AccessLog, 0, len(s.known))
	for _, sender := range s.known {
		list = append(list, sender.state(now))
	}
	slices.SortFunc(list, func(a, b extauthz.AccessLog) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return list
}

func (l *logSender) state(now time.Time) extauthz.AccessLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := l.log
	state.Intervals = l.intervals.Seconds(now)
	return state
}

// silent notes for how long nothing was said of a request that held a place.
func (l *logSender) silent(api string, interval time.Duration, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.intervals.Add(api, interval, now)
}

func (l *logSender) latest() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Latest
}

// closed notes that one of its streams ended.
func (l *logSender) closed() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.Streams--
}

// received notes a message.
func (l *logSender) received(counts *extauthz.LogCounts, now time.Time, lag time.Duration) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.Latest = now
	l.log.Entries.Add(counts)
	if counts[extauthz.LogEnded]+counts[extauthz.LogPeriodic] > 0 {
		l.log.Decided = now
	}
	if lag >= 0 {
		l.log.LagSeconds = lag.Seconds()
	}
}
