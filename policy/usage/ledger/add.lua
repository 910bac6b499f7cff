-- Adds what keys did to the hashes of their days. Atomic for each hash: it is added as a whole, and once however often it
-- is sent. Runs on Redis 7.0 (Lua 5.1) and on the embedded store (gopher-lua). Counts stay below 10^15, where doubles
-- are exact, and are no longer counted there; so no value has more than 64 bytes.
--
-- KEYS[1 .. m]  a hash each:
--               _               who has added lately: three capitals for a server, two characters for what it sent last
--               1, 2 …          names of routes, whose places these are; place 0 is all others, place - no route
--               a0 … x-         hour (a is 0:00 UTC) and place: ALLOWED, or ALLOWED:DENIED:COST if that says more
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
-- Reply of each key: 0 added; 1 had been added before; 2 added, and may have been before; 3 not added: nobody has said that
-- the key was used that day; -1 the key holds no hash.

local call, pcall, match, find, format, sub = redis.call, redis.pcall, string.match, string.find, string.format, string.sub
local min = math.min
local keys, argv = KEYS, ARGV
local me, at, reply = argv[1], 2, {}
local places = {[0] = '0', '1', '2', '3', '4'}
local most = 999999999999999

local function number(text)
  if text and text ~= '' then return text + 0 end
  return 0
end

for k = 1, #keys do
  local key, stamp, own, expires = keys[k], argv[at], argv[at + 1] + 0, argv[at + 2]
  local hours, reasons, seen = argv[at + 3] + 0, argv[at + 4] + 0, argv[at + 5] + 0
  at = at + 6
  local next = at + 5 * hours + 2 * reasons + 11 * seen
  for i = #places + 1, own do places[i] = format('%d', i) end
  local head = pcall('HMGET', key, '_', unpack(places, 1, own))
  local status = 0
  if head.err then
    if not find(head.err, 'WRONGTYPE', 1, true) then return head end
    status = -1
  else
    local marks = head[1] or ''
    local mine = me .. sub(stamp, 1, 2)
    if #stamp > 2 then
      if find(marks, mine, 1, true) then
        status = 1
      elseif #marks >= 60 and not find(marks, me, 1, true) then
        status = 2
      end
    end
    if marks == '' and hours == 0 then status = 3 end
    if status == 0 or status == 2 then
      local before = find(marks, me, 1, true)
      local set
      if before then
        set = {'_', sub(marks, 1, before - 1) .. mine .. sub(marks, before + 5)}
      else
        set = {'_', sub(marks, -55) .. mine}
      end

      local place, used = {[''] = '-'}, 0
      for i = 1, own do
        if not head[i + 1] then break end
        place[head[i + 1]], used = places[i], i
      end
      local function placeOf(route)
        local p = place[route]
        if not p then
          p = '0'
          if used < own then
            used = used + 1
            p = places[used]
            set[#set + 1], set[#set + 2] = p, route
          end
          place[route] = p
        end
        return p
      end

      -- What goes into one field is added up first: several routes may share place 0.
      local fields, values, n, known = {}, {}, 0, {}
      for _ = 1, hours do
        local field = argv[at + 1] .. placeOf(argv[at])
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
        local p = placeOf(argv[at])
        local s, t = known['S' .. p], known['T' .. p]
        if not s then
          s, t = {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}
          fields[n + 1], values[n + 1], known['S' .. p] = 'S' .. p, s, s
          fields[n + 2], values[n + 2], known['T' .. p] = 'T' .. p, t, t
          n = n + 2
        end
        for i = 1, 5 do s[i] = s[i] + argv[at + i] end
        t[1], t[2], t[3], t[5] = t[1] + argv[at + 6], t[2] + argv[at + 7], t[3] + argv[at + 8], t[5] + argv[at + 10]
        if argv[at + 9] + 0 > t[4] then t[4] = argv[at + 9] + 0 end
        at = at + 11
      end

      local old = call('HMGET', key, unpack(fields, 1, n))
      local last = #set
      for i = 1, n do
        local v, was, text = values[i], old[i], nil
        if i <= firstReason then
          local a, d, c = v[1], v[2], v[3]
          if was then
            local wasA, wasD, wasC = match(was, '^(%d+):?(%d*):?(%d*)$')
            a, d = a + number(wasA), d + number(wasD)
            if wasC == '' then wasC = wasA end
            c = c + number(wasC)
          end
          if d == 0 and c == a then
            text = format('%.0f', min(a, most))
          else
            text = format('%.0f:%.0f:%.0f', min(a, most), min(d, most), min(c, most))
          end
        elseif i <= firstSeen then
          text = format('%.0f', min(v + number(was and match(was, '^%d+$')), most))
        else
          local o1, o2, o3, o4, o5
          if was then o1, o2, o3, o4, o5 = match(was, '^(%d+):(%d+):(%d+):(%d+):(%d+)$') end
          o1, o2, o3, o4, o5 = number(o1), number(o2), number(o3), number(o4), number(o5)
          if sub(fields[i], 1, 1) == 'S' then
            -- 5 * 12 digits and 4 colons
            text = format('%.0f:%.0f:%.0f:%.0f:%.0f', min(v[1] + o1, 999999999999), min(v[2] + o2, 999999999999),
              min(v[3] + o3, 999999999999), min(v[4] + o4, 999999999999), min(v[5] + o5, 999999999999))
          else
            -- 15 + 15 + 13 + 8 + 9 digits
            if o4 > v[4] then v[4] = o4 end
            text = format('%.0f:%.0f:%.0f:%.0f:%.0f', min(v[1] + o1, most), min(v[2] + o2, most),
              min(v[3] + o3, 9999999999999), min(v[4], 99999999), min(v[5] + o5, 999999999))
          end
        end
        set[last + 1], set[last + 2] = fields[i], text
        last = last + 2
      end
      call('HSET', key, unpack(set, 1, last))
      if marks == '' then call('PEXPIREAT', key, expires) end
    end
  end
  at = next
  reply[k] = status
end
return reply
