-- Reserves a name in the hash of its actor. ARGV: the field, its value, which begins with a time,
-- now and the lifetime in milliseconds, and how many fields there may be. Returns '' if it is
-- reserved now, what stands if it was before, or 'full'.
local now, lifetime = tonumber(ARGV[3]), tonumber(ARGV[4])

local function over(value)
  local at = tonumber(string.match(value, '^%d+') or '0')
  return at + lifetime <= now
end

local stands = redis.call('HGET', KEYS[1], ARGV[1])
if stands and not over(stands) then
  return stands
end
if not stands and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if over(all[i + 1]) then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
    return 'full'
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return ''
