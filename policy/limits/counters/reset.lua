-- Resets counters of one limit id. Atomic: what is said to have been there is what is reset.
--
-- KEYS[1]  the hash of the limit id, see spend.lua
-- ARGV[1]  offset of the clock in ms, 0 outside tests
-- ARGV[2]… fields of the windows
-- Reply: now in ms; then of each field the value that stood there, and that of its previous window,
-- nil for none; or -i alone where the value of field i is no counter, and nothing is reset.
-- It leaves SPENT as what is HELD: replicas may be spending these units, and say later which
-- of them they have not spent. So what comes back was counted, once.

local clock = redis.call('TIME')
local ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[1]
local fields = {}
for i = 2, #ARGV do
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = 'previous:' .. ARGV[i]
end
local values = redis.call('HMGET', KEYS[1], unpack(fields))
local kept = {}
for i = 1, #fields, 2 do
  if values[i] then
    local start, spent, rest = string.match(values[i], '^(%-?%d+):(%d+)(.*)$')
    local held = rest and string.match(rest, '^:(%d+)$')
    if not start or rest ~= '' and not held or spent + 0 > 9007199254740991 or (held or 0) + 0 > spent + 0 then
      return {-(i + 1) / 2}
    end
    kept[#kept + 1] = fields[i]
    if held then
      kept[#kept + 1] = start .. ':' .. held .. ':' .. held
    else
      kept[#kept + 1] = start .. ':0'
    end
  end
end
if #kept > 0 then redis.call('HSET', KEYS[1], unpack(kept)) end
for i = 2, #fields, 2 do
  if values[i] then redis.call('HDEL', KEYS[1], fields[i]) end
end
table.insert(values, 1, ms)
return values
