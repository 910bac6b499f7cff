-- Replaces or removes a member, or replaces the team's record. Atomic: a team that has other
-- members, or keys, keeps an admin.
--
-- KEYS[1]  hash: the team's record and one field a member
-- KEYS[2]  hash: the team's keys, in the same slot
-- ARGV[1]  field of the team's record
-- ARGV[2]  id of the member, or the field of the team's record
-- ARGV[3]  JSON that must stand now
-- ARGV[4]  JSON to write; empty to remove the member
-- ARGV[5]  the role of an admin
-- Reply: {1} done; {} if another text stands or none; {other members, keys} if this is the last
-- admin.

local function is_admin(data)
  local ok, member = pcall(cjson.decode, data)
  return ok and type(member) == 'table' and member.role == ARGV[5]
end

if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  return {}
end
if is_admin(ARGV[3]) and not is_admin(ARGV[4]) then
  local all = redis.call('HGETALL', KEYS[1])
  local others, admins = 0, 0
  for i = 1, #all, 2 do
    if all[i] ~= ARGV[1] and all[i] ~= ARGV[2] then
      others = others + 1
      if is_admin(all[i + 1]) then
        admins = admins + 1
      end
    end
  end
  local keys = redis.call('HLEN', KEYS[2])
  -- Else a team with an admin could never be emptied and deleted.
  local the_end = ARGV[4] == '' and others == 0 and keys == 0
  if admins == 0 and not the_end then
    return {others, keys}
  end
end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
end
return {1}
