-- Adds a member to a team. Atomic: the team exists when the member is written, and no other has the
-- name.
--
-- KEYS[1]  hash: the team's record and one field a member
-- ARGV[1]  field of the team's record
-- ARGV[2]  id of the member, the new field
-- ARGV[3]  JSON of the member
-- ARGV[4]  the most members
-- Reply: ok, no team, exists (the name or the id), full.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 'no team'
end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4]) then
  return 'full'
end
local name = string.lower(cjson.decode(ARGV[3]).name)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] == ARGV[2] then
    return 'exists'
  end
  local ok, member = pcall(cjson.decode, all[i + 1])
  -- The team's record has a name too. A record that cannot be read has none.
  if all[i] ~= ARGV[1] and ok and type(member) == 'table' and type(member.name) == 'string'
    and string.lower(member.name) == name then
    return 'exists'
  end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 'ok'
