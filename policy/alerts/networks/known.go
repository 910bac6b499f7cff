package networks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/policy/connect"
)

const (
	// Most is how many networks of a key are known: one that is used from more is used from
	// anywhere.
	Most = 32
	// KeptDays is for how many days after its last use a network is known.
	KeptDays = 90

	prefix = "tg:v1:networks:"
)

// ServerACL is what a server needs on Redis to know the networks of keys, beside what any
// connection does.
func ServerACL() connect.ACL {
	return connect.ACL{
		Commands: []string{"evalsha", "eval", "time", "hgetall", "hdel", "hset", "pexpire"},
		Keys:     []string{prefix + "*"},
	}
}

// noteSource notes that a key was used from a network. A hash has the days (since 1970) on which
// each network was last used, and as "since" the first day of all.
//
// KEYS: the hash. ARGV: offset of the clock in ms, the network, how many are known at most, for how
// many days, how many days nothing is new, 1 to note what is new, too. Reply: the state (0 known, 1
// new, 2 too many others), how many networks were known, and now in ms.
const noteSource = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[1])
local today = math.floor(now / 86400000)
local all = redis.call('HGETALL', KEYS[1])
local n, since, last = 0, nil, nil
for i = 1, #all, 2 do
	local day = tonumber(all[i + 1]) or 0
	if all[i] == 'since' then
		since = day
	elseif day < today - ARGV[4] then
		redis.call('HDEL', KEYS[1], all[i])
	else
		n = n + 1
		if all[i] == ARGV[2] then last = day end
	end
end
local state = 0
if not last and n >= tonumber(ARGV[3]) then
	state = 2
elseif not last and n > 0 and today - (since or today) >= tonumber(ARGV[5]) and ARGV[6] ~= '1' then
	state = 1
elseif last ~= today then
	if not since or n == 0 then redis.call('HSET', KEYS[1], 'since', today) end
	redis.call('HSET', KEYS[1], ARGV[2], today)
	redis.call('PEXPIRE', KEYS[1], string.format('%.0f', (ARGV[4] + 1) * 86400000))
end
return {state, n, string.format('%.0f', now)}`

// Known are the networks from which keys were used, in Redis: at most Most of each key and those
// that it was rotated from, in some 0.1 to 1 KB. It is safe for concurrent use.
type Known struct {
	client redis.UniversalClient
	offset func() time.Duration
	note   *redis.Script
}

// NewKnown returns those of a Redis. offset is added to its clock, in whole milliseconds; nil means
// 0.
func NewKnown(c redis.UniversalClient, offset func() time.Duration) *Known {
	if offset == nil {
		offset = func() time.Duration { return 0 }
	}
	return &Known{c, offset, redis.NewScript(noteSource)}
}

// State says what is known of a network.
type State int

// What is known of a network.
const (
	Noted   State = iota // it was known, is the first of all, or nothing is new yet
	Unknown              // it is not known, and was not noted
	Full                 // it is not known, as too many others are
	invalid              // no answer of the script
)

// Found is what is known.
type Found struct {
	State    State
	Networks int       // that were known
	Now      time.Time // by Redis' clock
}

var errReply = errors.New("the store's answer cannot be read")

// Note notes that a key was used from a network, unless that is new; with evenNew also then.
// Nothing is new before it is so many days since the first use.
func (k *Known) Note(ctx context.Context, limitID, network string, afterDays int, evenNew bool) (f Found, err error) {
	even := 0
	if evenNew {
		even = 1
	}
	reply, err := k.note.Run(ctx, k.client, []string{prefix + "{" + limitID + "}"},
		k.offset().Milliseconds(), network, Most, KeptDays, afterDays, even).Slice()
	if err != nil {
		return f, fmt.Errorf("note: %w", err)
	}
	if len(reply) != 3 {
		return f, fmt.Errorf("note: %w", errReply)
	}
	state, isState := reply[0].(int64)
	n, isNumber := reply[1].(int64)
	var ms int64
	text, isText := reply[2].(string)
	if _, err := fmt.Sscan(text, &ms); err != nil || !isState || !isNumber || !isText || state < 0 || state >= int64(invalid) {
		return f, fmt.Errorf("note: %w", errReply)
	}
	return Found{State(state), int(n), time.UnixMilli(ms).UTC()}, nil
}
