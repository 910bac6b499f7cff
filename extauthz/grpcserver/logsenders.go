package grpcserver

import (
	"sync"
	"time"

	"tollgate/extauthz"
)

// maxLogSenders bounds what is known of Envoys that send logs.
const maxLogSenders = 1024

// AccessLog is what a Server knows of an access log that an Envoy sends. All that it says of the
// Envoy is what that says of itself, but for the address.
type AccessLog struct {
	// Node is the id of the Envoy (--service-node), Name the log_name of its configuration.
	Node string `json:"node"`
	Name string `json:"log_name"`
	// Address is the peer's, without its port.
	Address string `json:"address"`
	// Streams are open now. There may be none for a moment: they end all the time, and the next
	// message opens another one.
	Streams int `json:"streams"`
	// Opened counts them all.
	Opened int `json:"opened"`
	// First and Latest are when the first and the latest message arrived.
	First  time.Time `json:"first"`
	Latest time.Time `json:"latest"`
	// Decided is when an entry with our metadata last arrived; zero for never.
	Decided time.Time `json:"decided,omitzero"`
	// LagSeconds is from the end of a request to the arrival of its entry, by both clocks, of
	// the latest that was known; less than 0 for none.
	LagSeconds float64 `json:"lag_seconds"`
	// Entries counts the entries of this server's time.
	Entries extauthz.LogCounts `json:"entries"`
}

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
	mu  sync.Mutex
	log AccessLog
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
		sender = &logSender{log: AccessLog{Node: id.node, Name: id.log, Address: id.address, First: now, LagSeconds: -1}}
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
		if l := sender.state(); latest.IsZero() || l.Latest.Before(latest) {
			oldest, latest = id, l.Latest
		}
	}
	delete(s.known, oldest)
}

// all returns what is known of each log.
func (s *logSenders) all() []AccessLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]AccessLog, 0, len(s.known))
	for _, sender := range s.known {
		list = append(list, sender.state())
	}
	return list
}

func (l *logSender) state() AccessLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log
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
