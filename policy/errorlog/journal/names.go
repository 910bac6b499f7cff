package journal

import (
	"strings"

	"tollgate/policy/errorlog"
)

// The names of what is in Redis. All begin with prefix. The tag in braces keeps what belongs to an
// API on one node of a cluster, so that one script can hold its bounds.
const prefix = "tg:v1:errors:"

// indexKey is the sorted set of an API's lists, by their members, with the time of the last entry
// in ms of Redis' clock.
func indexKey(api string) string { return prefix + "{" + api + "}" }

// sizesKey is the hash of what each list takes, in bytes, and of what append.lua notes of the API.
func sizesKey(api string) string { return prefix + "{" + api + "}:sizes" }

// listKey is the list of the latest entries of a member, as errorlog.Entry.Pack writes them.
func listKey(api, member string) string { return prefix + "{" + api + "}:of:" + member }

// The marks of members that are no id of a key, which has neither.
const (
	unknownMark = "/" // and a reason: requests without a known key
	othersMark  = "+" // and a reason: requests of keys that were too many to be told apart
)

// memberOf is in which list of its API an entry stands.
func memberOf(e *errorlog.Entry) string {
	switch {
	case e.Others:
		return othersMark + e.Reason
	case e.Key == "":
		return unknownMark + e.Reason
	}
	return e.Key
}

// entryOf reads what stands in a list.
func entryOf(api, member, text string) (errorlog.Entry, error) {
	e, err := errorlog.Unpack(text)
	if err != nil {
		return e, err
	}
	e.API = api
	switch {
	case strings.HasPrefix(member, othersMark):
		e.Others = true
	case !strings.HasPrefix(member, unknownMark):
		e.Key = member
	}
	return e, nil
}
