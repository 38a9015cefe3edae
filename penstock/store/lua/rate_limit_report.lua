-- Record what the API answered to a request.
--
-- KEYS  1 rate limit  2 unanswered calls  3 turns
-- ARGV  1 request id  2 '1' if the API refused the request for now
--       3 ms for which no call may be made ('' = calls may be made)
--       4 limit on requests ('' = the API reported none)  5 requests remaining
--       6 ms until the limit is full again
-- Returns nothing.

-- include now_ms.lua
-- include of_type.lua

local limit_key, calls_key, turns_key = unpack(KEYS)
local id, refused, closed_for_ms, limit, remaining, full_in_ms = unpack(ARGV)

of_type(limit_key, 'hash')
of_type(calls_key, 'zset')
of_type(turns_key, 'zset')
local now = now_ms()
redis.call('ZREM', calls_key, id)
if limit ~= '' then
  limit, remaining, full_in_ms = tonumber(limit), tonumber(remaining), tonumber(full_in_ms)
  local interval = tonumber(redis.call('HGET', limit_key, 'interval_us')) or 0
  if interval == 0 then
    interval = math.floor(60000000 / limit)
  end
  -- The reset is in whole seconds, so it shows the pace only once much of the limit is used.
  if full_in_ms > 0 and limit - remaining >= math.max(2, limit / 4) then
    interval = math.floor(full_in_ms * 1000 / (limit - remaining))
  end
  -- What the API has left, less the unanswered calls and the turns that were given.
  local tokens = remaining - redis.call('ZCARD', calls_key) - redis.call('ZCARD', turns_key)
  redis.call('HSET', limit_key, 'known', 'yes', 'limit', limit,
    'interval_us', math.max(1, interval), 'tokens', tokens, 'stamp_ms', now)
elseif refused ~= '1' then
  redis.call('HSETNX', limit_key, 'known', 'none')
end
if closed_for_ms ~= '' then
  local closed = tonumber(redis.call('HGET', limit_key, 'closed_ms')) or 0
  redis.call('HSET', limit_key, 'closed_ms', math.max(closed, now + closed_for_ms))
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 3600000) end
