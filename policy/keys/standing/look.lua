-- Reads a mark, and the clock by which an operator accepts that the store was emptied.
--
-- KEYS[1]  the mark
-- Reply: {Unix ms, the mark or nil}

local clock = redis.call('TIME')
return {clock[1] * 1000 + math.floor(clock[2] / 1000), redis.call('GET', KEYS[1])}
