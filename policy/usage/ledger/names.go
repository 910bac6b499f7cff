package ledger

import (
	"strings"

	"tollgate/policy/usage"
)

// The names of what is in Redis. All begin with prefix. The tag in braces keeps what belongs to one
// subject on one node of a cluster; no id of a key has a slash.
const prefix = "tg:v1:usage:"

// dayKey is the hash of what a subject did on a day, as add.lua has it.
func dayKey(s usage.Subject, d usage.Day) string { return keyOf(s, d.String()) }

// keyOf is a key of a subject, for a day or month.
func keyOf(s usage.Subject, when string) string {
	switch {
	case s.Others:
		return prefix + "{others/" + s.API + "}:" + when
	case s.Key == "":
		return prefix + "{api/" + s.API + "}:" + when
	}
	return prefix + "{" + s.Key + "}:" + when
}

// listKey is the set of the keys of an API that were used on a day. Its members are of listed.
func listKey(api string, d usage.Day) string { return prefix + "list:{" + api + "}:" + d.String() }

// listed is how a key stands on a list: team, slash, id.
func listed(team, id string) string { return team + "/" + id }

// parseListed is the way back. A team may have slashes, an id has none.
func parseListed(member string) (team, id string) {
	i := strings.LastIndexByte(member, '/')
	return member[:max(i, 0)], member[i+1:]
}

// monthKey is the record of what a subject did in a month, as usage.MonthRecord encodes it.
func monthKey(s usage.Subject, m usage.Month) string { return keyOf(s, m.String()) }

// monthListKey is the set of the keys of an API that have a record of a month.
func monthListKey(api string, m usage.Month) string {
	return prefix + "list:{" + api + "}:" + m.String()
}

const (
	// apisKey is the set of APIs of which there is usage.
	apisKey = prefix + "apis"
	// lockKey names the server that folds.
	lockKey = prefix + "lock"
	// trimmedKey is a hash: of each API and month whose days are no longer told apart, API/MONTH.
	trimmedKey = prefix + "trimmed"
)
