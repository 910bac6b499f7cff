package outbox

import "github.com/redis/go-redis/v9"

// The names of what is in Redis. The tag keeps all of it on one node of a cluster, so that one
// script may touch it.
const (
	prefix      = "tg:v1:alerts:{alerts}:"
	lockKey     = prefix + "lock"     // string: until when (Unix ms) and by whose token messages are sent
	messagesKey = prefix + "messages" // hash: a message's record by its id
	dueKey      = prefix + "due"      // sorted set: ids by when they are next sent, Unix ms
	deadKey     = prefix + "dead"     // sorted set: ids that were given up, by when
	markPrefix  = prefix + "told:"    // string: that somebody was told
	turnPrefix  = prefix + "turn:"    // string: as lock, of what else one server does for all
)

// now is Redis' clock in Unix ms. ARGV[1] is added to it, 0 outside of tests.
const now = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[1])
`

// raiseSource marks that somebody is told, and keeps the messages to be sent.
//
// KEYS: messages, due, the marks, that of this message first. ARGV: offset, until when marks count
// (Unix ms), how many messages may wait, and the id and the record of each message. Reply: 0 told
// before, 1 marked, 2 marked and no room for the messages.
const raiseSource = now + `
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
for i = 3, #KEYS do
	redis.call('SET', KEYS[i], '1', 'PX', math.max(tonumber(ARGV[2]) - now, 1))
end
local n = (#ARGV - 3) / 2
if n > 0 and redis.call('ZCARD', KEYS[2]) + n > tonumber(ARGV[3]) then return 2 end
for i = 4, #ARGV, 2 do
	redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
	redis.call('ZREM', KEYS[2], ARGV[i])
	redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[i])
end
return 1`

// take takes or renews the lock KEYS[1] for ARGV[3] ms, for the token ARGV[2]. It ends the script
// with an empty reply if another has it.
const take = now + `
local held = redis.call('GET', KEYS[1])
if held then
	local ends, token = string.match(held, '^(%d+):(.*)$')
	if token and token ~= ARGV[2] and tonumber(ends) > now then return {} end
end
redis.call('SET', KEYS[1], string.format('%.0f', now + ARGV[3]) .. ':' .. ARGV[2], 'PX', ARGV[3])
`

// turnSource takes or renews a turn.
//
// KEYS: the turn. ARGV: offset, token, ms. Reply: empty if it is another's; else now.
const turnSource = take + `return {string.format('%.0f', now)}`

// claimSource takes or renews the lock, and takes messages that are due: until they are settled, or
// ARGV[4] is over, they are nobody else's.
//
// KEYS: lock, messages, due. ARGV: offset, token, ms of the lock, ms of a claim, messages at most.
// Reply: empty if another has the lock; else now, the end of the claim, and id and record of each.
const claimSource = take + `
local ends = string.format('%.0f', now + ARGV[4])
local reply = {string.format('%.0f', now), ends}
local ids = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[5])
for _, id in ipairs(ids) do
	local record = redis.call('HGET', KEYS[2], id)
	if record then
		redis.call('ZADD', KEYS[3], ends, id)
		reply[#reply + 1] = id
		reply[#reply + 1] = record
	else
		redis.call('ZREM', KEYS[3], id)
	end
end
return reply`

// settleSource says what became of a claimed message. The end of the claim is what fences it: once
// another has claimed the message, the word of the first counts no more.
//
// KEYS: messages, due, dead. ARGV: offset, id, the end of the claim, record ("" if it was sent),
// ms until it is sent again (-1 for never), messages that were given up at most. Reply: 1 if it
// counts.
const settleSource = now + `
if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[2]) or -1) ~= tonumber(ARGV[3]) then return 0 end
if ARGV[4] == '' then
	redis.call('ZREM', KEYS[2], ARGV[2])
	redis.call('HDEL', KEYS[1], ARGV[2])
	return 1
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
if tonumber(ARGV[5]) >= 0 then
	redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[5]), ARGV[2])
	return 1
end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[2])
local over = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[6])
if over > 0 then
	for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, over - 1)) do
		redis.call('ZREM', KEYS[3], id)
		redis.call('HDEL', KEYS[1], id)
	end
end
return 1`

// replaySource has a message that was given up sent again.
//
// KEYS: messages, due, dead. ARGV: offset, id, record. Reply: 1 if there was one.
const replaySource = now + `
if not redis.call('ZSCORE', KEYS[3], ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[2])
return 1`

type scripts struct{ raise, turn, claim, settle, replay *redis.Script }

func newScripts() scripts {
	return scripts{
		redis.NewScript(raiseSource), redis.NewScript(turnSource), redis.NewScript(claimSource), redis.NewScript(settleSource), redis.NewScript(replaySource),
	}
}
