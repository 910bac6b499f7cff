-- Notes in a mark that an operator has accepted, now, that the store was emptied. A mark that
-- stands keeps its id: servers that have started since know it.
--
-- KEYS[1]  the mark
-- ARGV[1]  a new mark
-- Reply: the mark.

local held, clock = redis.pcall('GET', KEYS[1]), redis.call('TIME')
local mark = type(held) == 'string' and string.match(held, '^v1:%x+') or ARGV[1]
if #mark ~= #ARGV[1] then
  mark = ARGV[1]
end
mark = mark .. ':' .. string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('SET', KEYS[1], mark)
return mark
