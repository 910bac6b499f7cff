-- Notes a key in its team's set of keys. Atomic: of two keys that would take the last place under a
-- cap, one does. A value is "<version> <Unix s> <+|-> <end> <limit id> <environment>": the version
-- of the key that it was noted for, when, whether the key is active, the Unix ms at which a
-- rotation ends it (0 = none does), the counters that it shares with the keys that it was rotated
-- from and to ("=" for those of its own id), and its environment.
--
-- What counts is a limit id, which the keys have that share their counters: once, however many of
-- its keys work, but once more for each key beyond the two of a rotation.
--
-- KEYS[1]  hash: the keys of a team
-- ARGV[1]  id of the key
-- ARGV[2]  version of the key
-- ARGV[3]  + if it is active, else -
-- ARGV[4]  its end
-- ARGV[5]  its limit id
-- ARGV[6]  its environment
-- ARGV[7]  the most that may count in this environment; -1 for no such limit
-- ARGV[8]  1 if a key that takes no new place is refused as well when there are too many
-- Reply: {1, 0} noted, {2, 0} a later version is noted, {0, n} n count and that is the most.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function works(mark, ends)
  return mark == '+' and (ends == '0' or tonumber(ends) > now)
end

local function parse(id, value)
  local version, mark, ends, limit_id, environment = string.match(value, '^(%d+) %d+ ([+-]) (%d+) (%S+) (.*)$')
  if limit_id == '=' then
    limit_id = id
  end
  return tonumber(version), mark, ends, limit_id, environment
end

local noted = redis.call('HGET', KEYS[1], ARGV[1])
if noted then
  local version = parse(ARGV[1], noted)
  if version and version > tonumber(ARGV[2]) then
    return {2, 0}
  end
end
local most = tonumber(ARGV[7])
if most >= 0 and works(ARGV[3], ARGV[4]) then
  local all = redis.call('HGETALL', KEYS[1])
  local by_limit_id, before = {}, {}
  for i = 1, #all, 2 do
    local _, mark, ends, limit_id, environment = parse(all[i], all[i + 1])
    if mark and environment == ARGV[6] and works(mark, ends) then
      before[limit_id] = (before[limit_id] or 0) + 1
      if all[i] ~= ARGV[1] then
        by_limit_id[limit_id] = (by_limit_id[limit_id] or 0) + 1
      end
    end
  end
  local limit_id = ARGV[5]
  if limit_id == '=' then
    limit_id = ARGV[1]
  end
  by_limit_id[limit_id] = (by_limit_id[limit_id] or 0) + 1
  local function sum(all)
    local n = 0
    for _, working in pairs(all) do
      n = n + math.max(1, working - 1)
    end
    return n
  end
  local after, was = sum(by_limit_id), sum(before)
  if after > most and (after > was or ARGV[8] == '1') then
    return {0, was}
  end
end
local value = {ARGV[2], clock[1], ARGV[3], ARGV[4], ARGV[5], ARGV[6]}
redis.call('HSET', KEYS[1], ARGV[1], table.concat(value, ' '))
return {1, 0}
