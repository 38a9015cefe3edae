-- Tell the gate what the API answered.
--
-- KEYS  1 gate  2 unanswered calls  3 turns
-- ARGV  1 request id  2 '1' if the call was refused for now  3 retry-after in ms ('' = none)
--       4 requests limit ('' = the API said nothing)  5 requests remaining
--       6 ms until the limit is full again
-- Returns nothing.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[4] ~= '' then
  local limit, remaining, reset = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local interval = tonumber(redis.call('HGET', KEYS[1], 'interval_us') or 0)
  if interval == 0 then
    interval = math.floor(60000000 / limit)
  end
  -- The reset is given in whole seconds; it tells the pace once much of the limit is used up.
  if reset > 0 and limit - remaining >= math.max(2, limit / 4) then
    interval = math.floor(reset * 1000 / (limit - remaining))
  end
  -- What the API has left, less what is on its way there and what has been promised.
  local tokens = remaining - redis.call('ZCARD', KEYS[2]) - redis.call('ZCARD', KEYS[3])
  redis.call('HSET', KEYS[1], 'known', 'yes', 'limit', limit, 'interval_us', math.max(1, interval),
    'tokens', tokens, 'stamp_ms', now)
elseif ARGV[2] ~= '1' then
  redis.call('HSETNX', KEYS[1], 'known', 'none')
end
if ARGV[2] == '1' and ARGV[3] ~= '' then
  local closed = tonumber(redis.call('HGET', KEYS[1], 'closed_ms') or 0)
  redis.call('HSET', KEYS[1], 'closed_ms', math.max(closed, now + ARGV[3]))
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], 3600000) end
