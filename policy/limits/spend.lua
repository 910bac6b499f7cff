-- Spends a cost from every window of one limit id, or from none; leases units ahead to the caller; takes units back from
-- a lease. Atomic: Redis runs nothing else meanwhile.
-- Runs on Redis 7.0 (Lua 5.1) and on the embedded store (gopher-lua). Numbers are doubles: every value here stays
-- within 2^53, where they are exact. x + 0 is tonumber(x) at half its price, for text that is known to be a number;
-- the nils in the table constructors make room for three windows at once.
--
-- KEYS[1]            hash: one field a window, value "START:SPENT" or "START:SPENT:HELD" (Unix seconds, units). SPENT
--                    includes HELD, which is what replicas have leased and not yet said to be spent.
-- ARGV[1]            n, the number of windows
-- ARGV[2]            offset of the clock in ms, 0 outside tests
-- ARGV[3]            units to take if all windows allow
-- ARGV[4]            units to lease ahead at most, or -1: judge, and take nothing
-- ARGV[5 .. 4+n]     fields of the windows
-- ARGV[5+n .. 4+3n]  of each window: its length in seconds, or minus the anchor day of a month; and its limit, -1 for 0
-- and where units of a lease are settled
-- ARGV[5+3n]         how many were leased
-- ARGV[6+3n]         how many of these were not spent
-- ARGV[7+3n .. 6+4n] of each window, the start that they were leased in
-- Reply: allowed (1 or 0), now in ms, units leased, then START and SPENT of each window after this step.

local n = ARGV[1] + 0
local offset = ARGV[2] + 0
local cost = ARGV[3] + 0
local grant = ARGV[4] + 0
local add = 0
if grant < 0 then grant = 0 else add = cost end
local settled, back = 0, 0
if ARGV[5 + 3 * n] then settled, back = ARGV[5 + 3 * n] + 0, ARGV[6 + 3 * n] + 0 end
local clock = redis.call('TIME')
local micros = clock[2] + 0
local ms = clock[1] * 1000 + (micros - micros % 1000) / 1000 + offset
local now = (ms - ms % 1000) / 1000
local stored = redis.call('HMGET', KEYS[1], unpack(ARGV, 5, 4 + n))
local reply = {1, ms, 0, nil, nil, nil, nil, nil, nil}
local held -- of each window, if anything is
local match = string.match
local begun, changed = false, false
local latest = now

for i = 1, n do
  local length = ARGV[3 + n + 2 * i] + 0
  local start
  if length > 0 then
    start = now - now % length
  else
    -- civil_from_days, as in window.go; x - x % 1 is floor(x).
    local days = (now - now % 86400) / 86400
    local z = days + 719468
    local doe = z % 146097
    local yoe = (doe - (doe - doe % 1460) / 1460 + (doe - doe % 36524) / 36524 - (doe - doe % 146096) / 146096) / 365
    yoe = yoe - yoe % 1
    local doy = doe - (365 * yoe + (yoe - yoe % 4) / 4 - (yoe - yoe % 100) / 100)
    local mp = (5 * doy + 2) / 153
    mp = mp - mp % 1
    local before = (153 * mp + 2) / 5
    local day = doy - (before - before % 1) + 1
    local first = days - day + 1
    local anchor = -length
    -- mp counts months from March: 0 is March, 10 January, 11 February.
    local year = yoe
    if mp > 9 then year = yoe + 1 end
    local february = 28
    if year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) then february = 29 end
    local lengths = {[0] = 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, february}
    local begins = anchor
    if begins > lengths[mp] then begins = lengths[mp] end
    if day < begins then
      local last = lengths[(mp + 11) % 12]
      first = first - last
      begins = anchor
      if begins > last then begins = last end
    end
    start = (first + begins - 1) * 86400
  end

  local spent, ahead = 0, 0
  local value = stored[i]
  local from
  if value then
    local units, leased
    from, units, leased = match(value, '^(%-?%d+):(%d+):?(%d*)$')
    if not from or leased == '' and string.byte(value, -1) == 58 then
      return redis.error_reply('CORRUPT counter ' .. ARGV[4 + i])
    end
    from, units = from + 0, units + 0
    if leased == '' then leased = 0 else leased = leased + 0 end
    if units > 9007199254740991 or leased > units or from > 1e12 then
      return redis.error_reply('CORRUPT counter ' .. ARGV[4 + i])
    end
    -- Time never goes back for a window: a later start than the clock's stays in force.
    if from > start then
      if from % (length > 0 and length or 86400) ~= 0 then
        return redis.error_reply('CORRUPT counter ' .. ARGV[4 + i])
      end
      start = from
    end
    if from == start then spent, ahead = units, leased end
  end
  if from ~= start then begun = true end
  if start > latest then latest = start end

  -- A record that does not hold the lease has lost it: nothing comes back then.
  if settled > 0 and ahead >= settled and start == ARGV[6 + 3 * n + i] + 0 then
    ahead = ahead - settled
    spent = spent - back
    changed = true
  end
  local room = ARGV[4 + n + 2 * i] - cost - spent
  if room < 0 then reply[1] = 0 end
  if grant > 0 then
    -- Of the last 100 units nothing is leased; above, all leases together are at most 2 % of what is left.
    local most = 0
    if room >= 100 then most = (room - room % 50) / 50 - ahead end
    if most < grant then grant = most end
  end
  if ahead > 0 then
    if not held then held = {nil, nil, nil} end
    held[i] = ahead
  end
  reply[2 + 2 * i] = start
  reply[3 + 2 * i] = spent
end

if grant < 0 or reply[1] == 0 then grant = 0 end
if reply[1] == 0 then add = 0 end
if add + grant > 0 or changed then
  reply[3] = grant
  local set = {nil, nil, nil, nil, nil, nil}
  for i = 1, n do
    local spent = reply[3 + 2 * i] + add + grant
    local ahead = grant
    if held and held[i] then ahead = ahead + held[i] end
    reply[3 + 2 * i] = spent
    set[2 * i - 1] = ARGV[4 + i]
    if ahead > 0 then
      set[2 * i] = string.format('%d:%d:%d', reply[2 + 2 * i], spent, ahead)
    else
      set[2 * i] = string.format('%d:%d', reply[2 + 2 * i], spent)
    end
  end
  redis.call('HSET', KEYS[1], unpack(set))
  -- 64 days outlast any window that is in force now, also one that this plan does not have; a later spend in the
  -- same windows needs no later end. In Redis' own clock, hence without the offset.
  if begun then
    redis.call('PEXPIREAT', KEYS[1], latest * 1000 - offset + 5529600000)
  end
end
return reply
