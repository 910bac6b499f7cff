-- Replaces the record of a key. Atomic: what is replaced is what the caller has read, and who hears
-- of it can read it.
--
-- KEYS[1]  the record
-- KEYS[2]  when the key was last used, in the same slot
-- ARGV[1]  version that must stand
-- ARGV[2]  hash that must stand
-- ARGV[3]  status of the new record
-- ARGV[4]  the new record
-- ARGV[5]  id of the key
-- ARGV[6]  channel of the changes
-- ARGV[7]… digest of each secret whose look-up changes
-- Reply: done, missing, deleted, final (revoked), alive (not revoked, to be deleted), conflict,
-- corrupt.

local data = redis.call('GET', KEYS[1])
if not data then
  return 'missing'
end
local read, old = pcall(cjson.decode, data)
if not read or type(old) ~= 'table' or type(old.hash or '') ~= 'string' then
  return 'corrupt'
end
if old.status == 'deleted' then
  return 'deleted'
end
if old.status == 'revoked' and ARGV[3] ~= 'revoked' and ARGV[3] ~= 'deleted' then
  return 'final'
end
if old.version ~= tonumber(ARGV[1]) or string.lower(old.hash or '') ~= ARGV[2] then
  return 'conflict'
end
if old.status ~= 'revoked' and ARGV[3] == 'deleted' then
  return 'alive'
end
redis.call('SET', KEYS[1], ARGV[4])
if ARGV[3] == 'deleted' then
  redis.call('DEL', KEYS[2])
end
local clock = redis.call('TIME')
local ms = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
for i = 7, #ARGV do
  redis.call('PUBLISH', ARGV[6], ms .. ' ' .. ARGV[i] .. ' ' .. ARGV[5])
end
return 'done'
