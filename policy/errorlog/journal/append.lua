-- Appends entries to the lists of an API, and holds its bounds: how many a list may have, how old
-- they may be, how many the API may have in a second, and how many bytes. Atomic: what is appended
-- is counted. Runs on Redis 7.0 (Lua 5.1) and on the embedded store (gopher-lua).
--
-- KEYS[1]       the index: a sorted set of members, by when their lists were last appended to
-- KEYS[2]       the sizes, a hash:
--               member   the bytes that its list takes, as this script counts them
--               total    their sum
--               due      ms: when the API would have had all of its entries if they came evenly
-- KEYS[3 ..]    the list of each entry
-- ARGV[1]       how long an entry is kept, ms
-- ARGV[2]       how many entries a list may have
-- ARGV[3]       how many bytes the API may take; ARGV[4] from how many on it has to give some back
-- ARGV[5]       bytes that an entry takes beside its text; ARGV[6] that a list takes beside entries
-- ARGV[7]       ms for each entry of the API; ARGV[8] how many ms may be taken at once
-- ARGV[9]       how many of the last entries an earlier try may have appended already
-- ARGV[10]      what is added to the clock, ms; 0 outside tests
-- then of each entry: its member, which begins with + if it is not to be counted for the second,
-- and its text, which begins with {"t": and its time in ms
-- Reply: of each entry 0 appended, 1 had been appended before, 2 too many in the second, 3 no room,
-- -1 the key holds no list; and the members whose lists are to be given back, oldest first.

local call, pcall, match, sub, floor = redis.call, redis.pcall, string.match, string.sub, math.floor
local keep, mostEntries, most, high = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0, ARGV[4] + 0
local perEntry, perList, each, burst, again = ARGV[5] + 0, ARGV[6] + 0, ARGV[7] + 0, ARGV[8] + 0, ARGV[9] + 0
local clock = call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000) + ARGV[10]
local first, n = 10, #KEYS - 2

local fields = {'total', 'due'}
for i = 1, n do fields[i + 2] = ARGV[first + 2 * i - 1] end
local old = call('HMGET', KEYS[2], unpack(fields))
local total, due = tonumber(old[1] or '') or 0, tonumber(old[2] or '') or now
if due < now or due > now + burst then due = now end -- or the clock was set back
local sizes = {}
for i = 1, n do sizes[fields[i + 2]] = tonumber(old[i + 2] or '') or 0 end

-- Takes the oldest entry of a list and returns the bytes that it took.
local function drop(list)
  return #call('LPOP', list) + perEntry
end

-- Appends one entry and returns its status.
local function append(list, member, text)
  local size, counted = sizes[member], sub(member, 1, 1) ~= '+'
  local cost = #text + perEntry
  if size == 0 then cost = cost + perList end
  if again > 0 then
    local last = pcall('LRANGE', list, -again, -1)
    if last.err then
      if match(last.err, 'WRONGTYPE') then return -1 end
      return last
    end
    for i = 1, #last do
      if last[i] == text then return 1 end
    end
  end
  if total + cost > most then return 3 end
  if counted and due + each > now + burst then return 2 end
  local length = pcall('RPUSH', list, text)
  if type(length) == 'table' then
    if match(length.err, 'WRONGTYPE') then return -1 end
    return length
  end
  if length > 1 and size > 0 then
    size = size + cost
  else -- a new list, or one of which not all is known
    total = total - size
    size = perList
    local all = call('LRANGE', list, 0, -1)
    for i = 1, #all do size = size + #all[i] + perEntry end
    total = total + size - cost
  end
  total = total + cost
  local before = size
  while length > mostEntries do
    size, length = size - drop(list), length - 1
  end
  while length > 1 do
    local at = tonumber(match(call('LINDEX', list, 0), '^{"t":(%d+)') or '')
    if at and at >= now - keep then break end
    size, length = size - drop(list), length - 1
  end
  total = total + size - before
  call('PEXPIRE', list, keep)
  call('ZADD', KEYS[1], now, member)
  sizes[member] = size
  if counted then due = due + each end
  return 0
end

local statuses, set = {}, {}
for i = 1, n do
  local member = ARGV[first + 2 * i - 1]
  local status = append(KEYS[i + 2], member, ARGV[first + 2 * i])
  if type(status) == 'table' then return status end
  statuses[i] = status
  if status == 0 then
    set[#set + 1] = member
    set[#set + 1] = string.format('%d', sizes[member])
  end
end
if #set > 0 then
  call('HSET', KEYS[2], 'total', string.format('%d', total), 'due', string.format('%d', due), unpack(set))
  call('PEXPIRE', KEYS[2], keep)
  call('PEXPIRE', KEYS[1], keep)
end

local back = {}
local oldest = call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if total > high or #oldest > 0 and oldest[2] + 0 < now - keep then
  back = call('ZRANGE', KEYS[1], 0, 31)
end
return {statuses, back}
