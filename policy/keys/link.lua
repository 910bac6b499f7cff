-- Leads a secret to a key, or away from it. Atomic: who hears of it sees it.
--
-- KEYS[1]  the secret's place
-- ARGV[1]  id of the key
-- ARGV[2]  link, unlink, or bury: then the place says that the secret was that of this key, which is deleted
-- ARGV[3]  channel of the changes
-- ARGV[4]  digest of the secret
-- Reply: link: {1, id} done, {0, owner} if it leads somewhere. unlink and bury: {1, id} done, {0, owner} if it leads to
-- another key; unlink: {0, ''} if it leads nowhere. The owner is "deleted:" and an id where the place was buried.

local owner = redis.call('GET', KEYS[1])
if ARGV[2] == 'link' then
  if owner then
    return {0, owner}
  end
  redis.call('SET', KEYS[1], ARGV[1])
elseif ARGV[2] == 'bury' then
  if owner and owner ~= ARGV[1] then
    return {0, owner}
  end
  redis.call('SET', KEYS[1], 'deleted:' .. ARGV[1])
else
  if owner ~= ARGV[1] then
    return {0, owner or ''}
  end
  redis.call('DEL', KEYS[1])
end
local clock = redis.call('TIME')
local ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('PUBLISH', ARGV[3], ms .. ' ' .. ARGV[4] .. ' ' .. ARGV[1])
return {1, ARGV[1]}
