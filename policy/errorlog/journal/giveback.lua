-- Deletes the lists of an API that have not been appended to for longest, until it takes few enough
-- bytes, and those that are too old. Another server may have done so meanwhile, or appended.
--
-- KEYS[1]       the index, KEYS[2] the sizes, as append.lua has them
-- KEYS[3 ..]    lists, oldest first
-- ARGV[1]       how long an entry is kept, ms
-- ARGV[2]       how many bytes the API may go on taking
-- ARGV[3]       what is added to the clock, ms; 0 outside tests
-- then of each list its member
-- Reply: how many lists were deleted.

local call, floor = redis.call, math.floor
local clock = call('TIME')
local before = clock[1] * 1000 + floor(clock[2] / 1000) + ARGV[3] - ARGV[1]
local total = tonumber(call('HGET', KEYS[2], 'total') or '') or 0
local deleted = 0
for i = 3, #KEYS do
  local member = ARGV[i + 1]
  local at = call('ZSCORE', KEYS[1], member)
  if at and (total > ARGV[2] + 0 or at + 0 < before) then
    total = total - (tonumber(call('HGET', KEYS[2], member) or '') or 0)
    call('DEL', KEYS[i])
    call('ZREM', KEYS[1], member)
    call('HDEL', KEYS[2], member)
    deleted = deleted + 1
  end
end
if deleted > 0 then call('HSET', KEYS[2], 'total', string.format('%d', total)) end
return deleted
