package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/extauthz"
)

const (
	// silentAfter is for how long no entry may come while requests are decided: a request that
	// lasts has none before its end, but for a periodic one.
	silentAfter = 10 * time.Second
	// fewAmong is how many decisions there must be until their share of entries says something, and
	// fewPart which one is too small: one of so many.
	fewAmong, fewPart = 100, 2
	// lateAfter is how long after the end of a request its entry may come. Envoy by itself takes a
	// second.
	lateAfter = 5 * time.Second
	// An interval may be one of intervalSlack longer than a third of max_duration: an entry that is
	// due then is sent with the next message.
	intervalSlack = 10
)

// findings is what was found.
type findings struct {
	Servers int `json:"servers"`
	// WatchedSeconds is the time between the two looks, in which Decided requests were decided and
	// Ended of them ended, by the logs.
	WatchedSeconds float64   `json:"watched_seconds"`
	Decided        uint64    `json:"decided"`
	Ended          uint64    `json:"ended"`
	Logs           []*log    `json:"logs"`
	APIs           []*api    `json:"apis"`
	Problems       []problem `json:"problems"`
	reports        []*looks  // of servers that have answered
}

// log is what all servers know of the log of one Envoy.
type log struct {
	Node    string `json:"node"`
	Name    string `json:"log_name"`
	Address string `json:"address"`
	Streams int    `json:"streams"`
	// AgeSeconds is how long ago the last message came, LagSeconds how late its last entry was;
	// less than 0 is not known.
	AgeSeconds float64            `json:"age_seconds"`
	LagSeconds float64            `json:"lag_seconds"`
	Decided    bool               `json:"decided"` // an entry had our metadata
	Entries    extauthz.LogCounts `json:"entries"`
	read       bool               // it has our name
}

// api is an API whose requests under way are limited.
type api struct {
	Name string `json:"name"`
	// MostSeconds is for how long a log may be silent about a request, a third of max_duration, and
	// LongestSeconds for how long one was; 0 is not known.
	MostSeconds    float64 `json:"most_seconds"`
	LongestSeconds float64 `json:"longest_seconds"`
}

// problem is one thing that is wrong.
type problem struct {
	Code   string `json:"code"`
	Text   string `json:"text"`
	Change change `json:"change"`
}

// judge finds what is wrong.
func judge(all []*looks, watched time.Duration) *findings {
	f := &findings{Servers: len(all), WatchedSeconds: watched.Seconds(), Logs: []*log{}, APIs: []*api{}, Problems: []problem{}}
	for _, l := range all {
		if l.err != nil {
			f.add("unreachable", changeServer(), "%s: %v", l.server, l.err)
			continue
		}
		f.reports = append(f.reports, l)
	}
	if len(f.reports) == 0 {
		return f
	}
	total := f.merge()
	f.judgeLogs(total)
	for _, l := range f.Logs {
		f.judgeLog(l)
	}
	f.judgeAPIs()
	f.judgeSlots(total)
	return f
}

func (f *findings) add(code string, c change, format string, args ...any) {
	f.Problems = append(f.Problems, problem{code, fmt.Sprintf(format, args...), c})
}

// merge puts the reports of all servers together. It returns how many decisions there ever were.
func (f *findings) merge() (decisions uint64) {
	type name struct{ node, log, address string }
	logs, apis := map[name]*log{}, map[string]*api{}
	for _, l := range f.reports {
		decisions += l.after.Decisions
		f.Decided += grown(l.before.Decisions, l.after.Decisions)
		f.Ended += grown(ended(l.before), ended(l.after))
		for _, a := range l.after.APIs {
			if a.MaxDurationSeconds > 0 {
				apis[a.Name] = &api{Name: a.Name, MostSeconds: a.MaxDurationSeconds / 3}
			}
		}
		for _, from := range l.after.Logs {
			to := logs[name{from.Node, from.Name, from.Address}]
			if to == nil {
				to = &log{Node: from.Node, Name: from.Name, Address: from.Address, AgeSeconds: -1, LagSeconds: -1, read: from.Name == l.after.LogName}
				logs[name{from.Node, from.Name, from.Address}] = to
			}
			to.add(&from, l.after.Time)
		}
	}
	for _, l := range f.reports {
		for _, from := range l.after.Logs {
			for name, seconds := range from.Intervals {
				if a := apis[name]; a != nil {
					a.LongestSeconds = max(a.LongestSeconds, seconds)
				}
			}
		}
	}
	f.Logs = slices.SortedFunc(maps.Values(logs), func(a, b *log) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	f.APIs = slices.SortedFunc(maps.Values(apis), func(a, b *api) int { return cmp.Compare(a.Name, b.Name) })
	return decisions
}

// grown is how much a count has grown; a server that was started anew counts from 0.
func grown(before, after uint64) uint64 {
	if after < before {
		return after
	}
	return after - before
}

// ended counts the requests that have ended by the logs that are read.
func ended(r *extauthz.LogReport) (n uint64) {
	for i := range r.Logs {
		if l := &r.Logs[i]; l.Name == r.LogName {
			n += l.Entries[extauthz.LogEnded] + l.Entries[extauthz.LogForeign]
		}
	}
	return n
}

// add takes in what one server knows, at the time by its clock.
func (l *log) add(from *extauthz.AccessLog, now time.Time) {
	l.Streams += from.Streams
	l.Entries.Add(&from.Entries)
	l.Decided = l.Decided || !from.Decided.IsZero()
	if age := max(now.Sub(from.Latest).Seconds(), 0); !from.Latest.IsZero() && (l.AgeSeconds < 0 || age < l.AgeSeconds) {
		l.AgeSeconds, l.LagSeconds = age, from.LagSeconds
	}
}

// judgeLogs is about all logs together.
func (f *findings) judgeLogs(decisions uint64) {
	watched := time.Duration(f.WatchedSeconds * float64(time.Second))
	youngest := -1.0
	var named []string
	for _, l := range f.Logs {
		if !l.read {
			named = append(named, output.Printable(l.Name))
		} else if youngest < 0 || l.AgeSeconds < youngest {
			youngest = l.AgeSeconds
		}
	}
	ours := f.reports[0].after.LogName
	switch {
	case youngest < 0 && len(named) > 0:
		f.add("wrong_name", changeLog(), "access logs arrive that are named %q; only one with log_name %s is read", named[0], ours)
	case youngest < 0 && decisions == 0:
		f.add("no_request", change{Any: "send a request through Envoy, and look again"},
			"no request has been decided yet; Envoy opens its access log with the first entry")
	case youngest < 0:
		f.add("no_log", changeLog(), "no access log arrives; %d requests were decided", decisions)
	case f.Decided > 0 && f.Ended == 0 && youngest > silentAfter.Seconds():
		f.add("silent", changeLog(), "the access log has stopped: the last entry came %s ago, and %d requests were decided in the last %v", seconds(youngest), f.Decided, watched)
	case f.Decided >= fewAmong && f.Ended*fewPart < f.Decided:
		f.add("few", changeLog(), "in %v %d requests were decided, and %d ended by the access logs: not every Envoy sends one, or entries are lost (or some replica is not among --server)", watched, f.Decided, f.Ended)
	}
}

// judgeLog is about the log of one Envoy.
func (f *findings) judgeLog(l *log) {
	if !l.read {
		return
	}
	who := "the log of " + l.String()
	e := &l.Entries
	if http := e[extauthz.LogEnded] + e[extauthz.LogPeriodic] + e[extauthz.LogForeign]; http == 0 && e[extauthz.LogTCP] > 0 {
		f.add("tcp", changeLog(), "%s has entries of TCP connections only: it does not stand at the HTTP connection manager", who)
	} else if !l.Decided && http > 0 {
		f.add("no_metadata", changeMetadata(), "%s: none of its %d entries has the metadata of a decision", who, http)
	}
	if n := e[extauthz.LogMalformed]; n > 0 {
		f.add("malformed", change{Any: "look for \"an access log sent a message\" in the servers' log; who else sends to the gRPC port?"},
			"%s: %d messages could not be read", who, n)
	}
	if l.LagSeconds > lateAfter.Seconds() {
		f.add("late", changeFlush(), "%s: entries come %s after the end of their requests, or the clocks of Envoy and the server differ by that", who, seconds(l.LagSeconds))
	}
}

// judgeAPIs is about how often requests that last are told of.
func (f *findings) judgeAPIs() {
	for _, a := range f.APIs {
		if a.LongestSeconds > a.MostSeconds*(1+1.0/intervalSlack) {
			f.add("interval", changeInterval(a.MostSeconds), "api %s: the log was silent about a request for %s; more than a third of max_duration (%s) is too long: such a request soon counts as ended",
				a.Name, seconds(a.LongestSeconds), seconds(a.MostSeconds))
		}
	}
}

// judgeSlots is about what the servers say of places of requests under way.
func (f *findings) judgeSlots(decisions uint64) {
	unlogged, others := map[string]int{}, map[string]bool{}
	for _, l := range f.reports {
		for _, t := range l.after.Slots {
			if t.Problem == extauthz.SlotsNoLog {
				unlogged[t.API]++
			} else {
				others[t.Problem] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unlogged)) {
		// One that another server knows of is logged, and where nothing arrives that is said
		// already.
		if unlogged[name] == len(f.reports) && decisions > 0 && slices.ContainsFunc(f.Logs, func(l *log) bool { return l.Decided }) {
			f.add("no_log_of_api", changeLog(), "api %s: no entry has told of a request of it, and its requests under way are limited: each counts for max_duration", name)
		}
	}
	if others[extauthz.SlotsExpired] {
		f.add("expired", changeInterval(f.shortestInterval()), "more than 1 %% of the places of requests under way end by themselves: entries are lost, or requests last longer than max_duration")
	}
	if others[extauthz.SlotsDenied] {
		f.add("denied", change{Any: "give the server's user of Redis the rights that tollgate store acl server prints"}, "the store's user may not take places of requests under way")
	}
}

// shortestInterval is what suits all APIs, in seconds.
func (f *findings) shortestInterval() (least float64) {
	for _, a := range f.APIs {
		if least == 0 || a.MostSeconds < least {
			least = a.MostSeconds
		}
	}
	return least
}
