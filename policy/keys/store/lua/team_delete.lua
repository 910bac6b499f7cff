-- Deletes a team that is empty. Atomic: a member that is being added, or a key, is either counted
-- or finds no team.
--
-- KEYS[1]  hash: the team's record and one field a member
-- KEYS[2]  hash: the team's keys, in the same slot
-- ARGV[1]  field of the team's record
-- Reply: nothing if there is no such team, else the number of members and of keys; the team is gone
-- if both are 0.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return {}
end
local members = redis.call('HLEN', KEYS[1]) - 1
local keys = redis.call('HLEN', KEYS[2])
if members == 0 and keys == 0 then
  redis.call('DEL', KEYS[1])
end
return {members, keys}
