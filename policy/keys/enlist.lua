-- Notes a key in its team's set of keys. Atomic: of two keys that would take the last place under a cap, one does.
-- A value is "<version> <Unix s> <+|-> <environment>": the version of the key that it was noted for, when, whether the
-- key counts, and its environment.
--
-- KEYS[1]  hash: the keys of a team
-- ARGV[1]  id of the key
-- ARGV[2]  version of the key
-- ARGV[3]  + if it counts, else -
-- ARGV[4]  environment of the key
-- ARGV[5]  the most keys of this environment that may count; -1 for no such limit
-- Reply: {1, 0} noted, {2, 0} a later version is noted, {0, n} n others count and that is the most.

local function parse(value)
  local version, since, mark, environment = string.match(value, '^(%d+) (%d+) ([+-]) (.*)$')
  return tonumber(version), since, mark, environment
end

local noted = redis.call('HGET', KEYS[1], ARGV[1])
if noted then
  local version = parse(noted)
  if version and version > tonumber(ARGV[2]) then
    return {2, 0}
  end
end
local most = tonumber(ARGV[5])
if ARGV[3] == '+' and most >= 0 then
  local all = redis.call('HGETALL', KEYS[1])
  local n = 0
  for i = 1, #all, 2 do
    if all[i] ~= ARGV[1] then
      local version, since, mark, environment = parse(all[i + 1])
      if mark == '+' and environment == ARGV[4] then
        n = n + 1
      end
    end
  end
  if n >= most then
    return {0, n}
  end
end
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. clock[1] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return {1, 0}
