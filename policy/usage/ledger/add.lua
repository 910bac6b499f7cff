-- Adds what keys did to the hashes of their days. Atomic for each hash: it is added as a whole, and
-- once however often it is sent. Runs on Redis 7.0 (Lua 5.1) and on the embedded store
-- (gopher-lua). Counts stay below 10^15, where doubles are exact, and are no longer counted there;
-- so no value has more than 64 bytes.
--
-- KEYS[1 .. m]  a hash each:
--               _               who has added lately: three capitals for a server, two characters
--                               for what it sent last
--               1, 2 …          names of routes, whose places these are; place 0 is all
--                               others, place - no route
--               a0 … x-         hour (a is 0:00 UTC) and place: ALLOWED, or ALLOWED:DENIED:COST if
--                               that says more
--               S0 …            place: requests by the class of their status, none:2xx:3xx:4xx:5xx
--               T0 …            place: bytes in, bytes out, ms in all, longest ms, slow requests
--               R:reason        requests denied for that reason
-- ARGV[1]       three capitals, for the server
-- then of each key
--   two characters for this addition, and a third if it may have been made already
--   how many routes have a place of their own; when the hash ends, in Unix ms
--   numbers of hours, reasons and routes seen, and these:
--   hour: route, letter, allowed, denied, cost;  reason: name, requests
--   route seen: route, five classes of status, bytes in, bytes out, ms, longest ms, slow
-- Reply of each key: 0 added; 1 had been added before; 2 added, and may have been before; 3 not
-- added: nobody has said that the key was used that day; -1 the key holds no hash.

local call, pcall, match, find, format, sub = redis.call, redis.pcall, string.match, string.find, string.format, string.sub
local keys, argv = KEYS, ARGV
local me, at, reply = argv[1], 2, {}
local places = {[0] = '0', '1', '2', '3', '4'}
local most = 999999999999999

-- Of one hash: the places of its routes, how many have one, how many may, and what is to be
-- written.
local place, used, own, set, last

local function placeOf(route)
  local p = '0'
  if used < own then
    used = used + 1
    p = places[used]
    set[last + 1], set[last + 2] = p, route
    last = last + 2
  end
  place[route] = p
  return p
end

for k = 1, #keys do
  local key, stamp, expires = keys[k], argv[at], argv[at + 2]
  local hours, reasons, seen = argv[at + 3] + 0, argv[at + 4] + 0, argv[at + 5] + 0
  own = argv[at + 1] + 0
  at = at + 6
  local next = at + 5 * hours + 2 * reasons + 11 * seen
  local head
  if own == 4 then
    head = pcall('HMGET', key, '_', '1', '2', '3', '4')
  else
    for i = #places + 1, own do places[i] = format('%d', i) end
    head = pcall('HMGET', key, '_', unpack(places, 1, own))
  end
  local status = 0
  if head.err then
    if not find(head.err, 'WRONGTYPE', 1, true) then return head end
    status = -1
  else
    local marks = head[1]
    local before = marks and find(marks, me, 1, true)
    if #stamp > 2 then
      stamp = sub(stamp, 1, 2)
      if before and sub(marks, before + 3, before + 4) == stamp then
        status = 1
      elseif marks and not before and #marks >= 60 then
        status = 2
      end
    end
    if not marks and hours == 0 then status = 3 end
    if status == 0 or status == 2 then
      local mine = me .. stamp
      if before and #marks > 5 then
        mine = sub(marks, 1, before - 1) .. mine .. sub(marks, before + 5)
      elseif marks and not before then
        mine = sub(marks, -55) .. mine
      end
      set, last = {'_', mine, nil, nil, nil, nil, nil, nil}, 2
      place, used = {[''] = '-'}, 0
      for i = 1, own do
        local route = head[i + 1]
        if not route then break end
        place[route], used = places[i], i
      end

      -- What goes into one field is added up first: several routes may share place 0.
      local fields, values, n, known = {nil, nil, nil, nil}, {nil, nil, nil, nil}, 0, {}
      for _ = 1, hours do
        local route = argv[at]
        local field = argv[at + 1] .. (place[route] or placeOf(route))
        local v = known[field]
        if v then
          v[1], v[2], v[3] = v[1] + argv[at + 2], v[2] + argv[at + 3], v[3] + argv[at + 4]
        else
          n = n + 1
          v = {argv[at + 2] + 0, argv[at + 3] + 0, argv[at + 4] + 0}
          fields[n], values[n], known[field] = field, v, v
        end
        at = at + 5
      end
      local firstReason = n
      for _ = 1, reasons do
        n = n + 1
        fields[n], values[n] = 'R:' .. argv[at], argv[at + 1] + 0
        at = at + 2
      end
      local firstSeen = n
      for _ = 1, seen do
        local route = argv[at]
        local p = place[route] or placeOf(route)
        local s = known[p]
        if s then
          local t = values[s + 1]
          s = values[s]
          for i = 1, 5 do s[i] = s[i] + argv[at + i] end
          t[1], t[2], t[3], t[5] = t[1] + argv[at + 6], t[2] + argv[at + 7], t[3] + argv[at + 8], t[5] + argv[at + 10]
          if argv[at + 9] + 0 > t[4] then t[4] = argv[at + 9] + 0 end
        else
          n = n + 2
          known[p] = n - 1
          fields[n - 1], fields[n] = 'S' .. p, 'T' .. p
          values[n - 1] = {argv[at + 1] + 0, argv[at + 2] + 0, argv[at + 3] + 0, argv[at + 4] + 0, argv[at + 5] + 0}
          values[n] = {argv[at + 6] + 0, argv[at + 7] + 0, argv[at + 8] + 0, argv[at + 9] + 0, argv[at + 10] + 0}
        end
        at = at + 11
      end

      local old = call('HMGET', key, unpack(fields, 1, n))
      for i = 1, n do
        local v, was, text = values[i], old[i], nil
        if i <= firstReason then
          local a, d, c = v[1], v[2], v[3]
          if was then
            local wasA, wasD, wasC = match(was, '^(%d+):?(%d*):?(%d*)$')
            if wasC and wasC ~= '' then
              a, d, c = a + wasA, d + wasD, c + wasC
            elseif wasA then
              a, c = a + wasA, c + wasA
            end
          end
          if a > most then a = most end
          if d > most then d = most end
          if c > most then c = most end
          if d == 0 and c == a then
            text = format('%d', a)
          else
            text = format('%d:%d:%d', a, d, c)
          end
        elseif i <= firstSeen then
          if was and match(was, '^%d+$') then v = v + was end
          if v > most then v = most end
          text = format('%d', v)
        else
          local v1, v2, v3, v4, v5 = v[1], v[2], v[3], v[4], v[5]
          local o1, o2, o3, o4, o5
          if was then o1, o2, o3, o4, o5 = match(was, '^(%d+):(%d+):(%d+):(%d+):(%d+)$') end
          if (i - firstSeen) % 2 == 1 then
            if o1 then v1, v2, v3, v4, v5 = v1 + o1, v2 + o2, v3 + o3, v4 + o4, v5 + o5 end
            -- 5 * 12 digits and 4 colons
            if v1 > 999999999999 then v1 = 999999999999 end
            if v2 > 999999999999 then v2 = 999999999999 end
            if v3 > 999999999999 then v3 = 999999999999 end
            if v4 > 999999999999 then v4 = 999999999999 end
            if v5 > 999999999999 then v5 = 999999999999 end
          else
            if o1 then
              v1, v2, v3, v5 = v1 + o1, v2 + o2, v3 + o3, v5 + o5
              if o4 + 0 > v4 then v4 = o4 + 0 end
            end
            -- 15 + 15 + 13 + 8 + 9 digits
            if v1 > most then v1 = most end
            if v2 > most then v2 = most end
            if v3 > 9999999999999 then v3 = 9999999999999 end
            if v4 > 99999999 then v4 = 99999999 end
            if v5 > 999999999 then v5 = 999999999 end
          end
          text = format('%d:%d:%d:%d:%d', v1, v2, v3, v4, v5)
        end
        set[last + 1], set[last + 2] = fields[i], text
        last = last + 2
      end
      call('HSET', key, unpack(set, 1, last))
      if not marks then call('PEXPIREAT', key, expires) end
    end
  end
  at = next
  reply[k] = status
end
return reply
