-- Leads a secret to a key, or away from it. Atomic: who hears of it sees it.
--
-- KEYS[1]  the secret's place
-- ARGV[1]  id of the key
-- ARGV[2]  link, unlink, retire: the place says that the key has another hash of the secret now, or
--          tombstone: that the key is deleted
-- ARGV[3]  channel of the changes
-- ARGV[4]  digest of the secret
-- Reply: {1, id} done. {0, owner} not done: link, if the place is not empty and not the key's own
-- retired one; unlink, if it does not lead to the key; retire and tombstone, if it is another
-- key's. The owner is "former:" and an id where the place was retired, "deleted:" and an id of a
-- deleted key, and '' if it is empty.

local id, owner = ARGV[1], redis.call('GET', KEYS[1])
local leads, retired = owner == id, owner == 'former:' .. id
local mine, value
if ARGV[2] == 'link' then
  mine, value = not owner or retired, id
elseif ARGV[2] == 'retire' then
  mine, value = not owner or leads, 'former:' .. id
elseif ARGV[2] == 'tombstone' then
  mine, value = not owner or leads or retired, 'deleted:' .. id
else
  mine = leads
end
if not mine then
  return {0, owner or ''}
end
if value then
  redis.call('SET', KEYS[1], value)
else
  redis.call('DEL', KEYS[1])
end
local clock = redis.call('TIME')
local ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('PUBLISH', ARGV[3], ms .. ' ' .. ARGV[4] .. ' ' .. id)
return {1, id}
