-- Spends: for each key in turn, takes a cost from every window of one limit id, or from none; leases units to the
-- caller; takes units back from a lease. Each spend sees what those before it did, and a record that is broken fails its
-- own spends only. Atomic: Redis runs nothing else meanwhile.
-- Runs on Redis 7.0 (Lua 5.1) and on the embedded store (gopher-lua). Numbers are doubles: every value here stays
-- within 2^53, where they are exact. x + 0 is tonumber(x) at half its price, for text that is known to be a number;
-- the nils in the table constructors make room for three windows at once.
--
-- KEYS[1 .. m]  of each spend, the hash of its limit id: one field a window, value "START:SPENT" or "START:SPENT:HELD"
--               (Unix seconds, units). SPENT includes HELD, which is what replicas have leased and not yet said to be
--               spent. Field "previous:" .. field is the window that was in force before, "START:SPENT": a clock that
--               jumps and returns finds it there. Versions without it read and write the other fields alone.
-- ARGV[1]       offset of the clock in ms, 0 outside tests
-- then, until each key has had its turn, groups of spends that differ in nothing but the key:
--   how many they are; or 0 for a single one, which settles units of a lease
--   n, the number of windows; or -p for those of the p-th plan in this call
--   units to take if all windows allow
--   units to lease at most, or -1: judge, and take nothing
--   with n > 0, a plan: fields of the windows; then of each its length in seconds, or minus the anchor day of a month,
--   and its limit, -1 for 0
--   where units are settled: how many were leased, how many of these were not spent, and of each window the start that
--   they were leased in
-- Reply: now in ms; then, in the order of the arguments, of each plan the START of its windows by the clock; of each
-- spend a status and, unless that is negative, SPENT of each window after this step. The status is -1 where the key holds
-- no hash, -1-i where the value of window i is no counter, both of which are left as they are; else a sum of: 1 if it is
-- allowed; 2 if a month is in force that did not begin when the clock says, and START of each window follows; 4 for each
-- unit leased.

local offset = ARGV[1] + 0
local clock = redis.call('TIME')
local micros = clock[2] + 0
local ms = clock[1] * 1000 + (micros - micros % 1000) / 1000 + offset
local now = (ms - ms % 1000) / 1000
local call, pcall, match, format = redis.call, redis.pcall, string.match, string.format
local keys, argv = KEYS, ARGV
local reply, size = {ms, nil, nil, nil, nil, nil, nil, nil}, 1
local key, total, at = 0, #keys, 2
local plans -- once there can be a second
local n, first, starts, limits -- of the windows in use: how many, where their fields are, by the clock, their limits
local set = {nil, nil, nil, nil, nil, nil}

while key < total do
  local count, cost, most = argv[at] + 0, argv[at + 2] + 0, argv[at + 3] + 0
  n = argv[at + 1] + 0
  at = at + 4
  if n > 0 then
    first, starts, limits = at, {nil, nil, nil}, {nil, nil, nil}
    at = at + 3 * n
    for i = 1, n do
      local length = argv[first + n + 2 * i - 2] + 0
      limits[i] = argv[first + n + 2 * i - 1] + 0
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
        local begins = days - day + 1
        local anchor = -length
        -- mp counts months from March: 0 is March, 10 January, 11 February.
        local year = yoe
        if mp > 9 then year = yoe + 1 end
        local february = 28
        if year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) then february = 29 end
        local lengths = {[0] = 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, february}
        local from = anchor
        if from > lengths[mp] then from = lengths[mp] end
        if day < from then
          local previous = lengths[(mp + 11) % 12]
          begins = begins - previous
          from = anchor
          if from > previous then from = previous end
        end
        start = (begins + from - 1) * 86400
      end
      starts[i] = start
      reply[size + i] = start
    end
    size = size + n
    if key + count < total then
      if not plans then plans = {} end
      plans[#plans + 1] = {n, first, starts, limits}
    end
  else
    local plan = plans[-n]
    n, first, starts, limits = plan[1], plan[2], plan[3], plan[4]
  end
  local settled, back, leasedIn = 0, 0, 0
  if count == 0 then
    count, settled, back, leasedIn = 1, argv[at] + 0, argv[at + 1] + 0, at + 1
    at = at + 2 + n
  end

  for k = key + 1, key + count do
    local stored = pcall('HMGET', keys[k], unpack(argv, first, first + n - 1))
    local status, grant = 1, most
    local held, own -- of each window, if any
    local last = 2 * n -- of what is to be written: the windows, then what is to be remembered
    local begun, changed = false, false
    size = size + 1
    if stored.err then
      if not string.find(stored.err, 'WRONGTYPE', 1, true) then return stored end
      status = -1
    else
      for i = 1, n do
        local start, spent, onLease = starts[i], 0, 0
        local from = stored[i]
        if from then
          local units, rest
          from, units, rest = match(from, '^(%-?%d+):(%d+)(.*)')
          local leased = 0
          if rest ~= '' then leased = rest and match(rest, '^:(%d+)$') end
          if not leased then
            status = -1 - i
            break
          end
          from, units, leased = from + 0, units + 0, leased + 0
          if units > 9007199254740991 or leased > units or from > 1e12 then
            status = -1 - i
            break
          end
          if from == start then
            spent, onLease = units, leased
          else
            -- A month that began less than 28 days before this one, by another anchor, is this one.
            local earliest, grid = start, argv[first + n + 2 * i - 2] + 0
            if grid < 0 then earliest, grid = start - 2419199, 86400 end
            if from >= earliest and from % grid ~= 0 then
              status = -1 - i
              break
            end
            if from >= earliest and from <= now then
              start, spent, onLease = from, units, leased
            else
              begun = true
              local field = 'previous:' .. argv[first + i - 1]
              local other, counted = match(call('HMGET', keys[k], field)[1] or '', '^(%-?%d+):(%d+)$')
              if other then other, counted = other + 0, counted + 0 end
              -- Not by and/or: the embedded store takes "x = not a and b" wrong.
              local found, keeps = false, true
              if other and other >= earliest and other <= now and other % grid == 0 then
                start, found = other, true
              end
              if from > now then
                -- The clock has come back from there. This window counts both, once, hence is written at any rate. Where
                -- it is the one before, or that is over, it was a jump and nothing is left of it; else the clock may be
                -- wrong now and return to where it was.
                changed, spent = true, units
                if found then spent = spent + counted end
                if other and other <= now then keeps = false end
              elseif found then
                spent = units -- carried over when the clock left this window
                if counted > spent then spent = counted end
              end
              if spent > 9007199254740991 then spent = 9007199254740991 end
              if keeps then
                set[last + 1], set[last + 2] = field, format('%d:%d', from, units)
                last = last + 2
              end
            end
            if start ~= starts[i] then
              if not own then own = {nil, nil, nil} end
              own[i] = start
            end
          end
        else
          begun = true
        end

        -- A record that does not hold the lease has lost it: nothing comes back then.
        if settled > 0 and onLease >= settled and start == argv[leasedIn + i] + 0 then
          onLease = onLease - settled
          spent = spent - back
          changed = true
        end
        local room = limits[i] - cost - spent
        if room < 0 then status = 0 end
        if grant > 0 then
          -- Of the last 100 units nothing is leased; above, all leases together are at most 2 % of what is left. Of what is
          -- free of these, half: who asks next, or joins, finds some too.
          local share = 0
          if room >= 100 then
            share = (room - room % 50) / 50 - onLease
            share = (share - share % 2) / 2
          end
          if share < grant then grant = share end
        end
        if onLease > 0 then
          if not held then held = {nil, nil, nil} end
          held[i] = onLease
        end
        reply[size + i] = spent
      end
    end

    if status < 0 then
      for i = 1, n do reply[size + i] = nil end
      reply[size] = status
    else
      local add = cost
      if most < 0 or status == 0 then add = 0 end
      if grant < 0 or status == 0 then grant = 0 end
      add = add + grant
      if add > 0 or changed then
        for i = 1, n do
          local spent = reply[size + i] + add
          local start, onLease = starts[i], grant
          if own and own[i] then start = own[i] end
          if held and held[i] then onLease = onLease + held[i] end
          reply[size + i] = spent
          set[2 * i - 1] = argv[first + i - 1]
          if onLease > 0 then
            set[2 * i] = format('%d:%d:%d', start, spent, onLease)
          else
            set[2 * i] = format('%d:%d', start, spent)
          end
        end
        call('HSET', keys[k], unpack(set, 1, last))
        -- 64 days outlast any window that is in force now, also one that this plan does not have; a later spend in the
        -- same windows needs no later end. In Redis' own clock, hence without the offset.
        if begun then call('PEXPIREAT', keys[k], now * 1000 - offset + 5529600000) end
      end
      status = status + 4 * grant
      reply[size] = status
      size = size + n
      if own then
        reply[size - n] = status + 2
        for i = 1, n do reply[size + i] = own[i] or starts[i] end
        size = size + n
      end
    end
  end
  key = key + count
end
return reply
