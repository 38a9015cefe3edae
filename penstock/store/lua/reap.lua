-- Look at one live request whose time has come: does it need a new wake-up?
--
-- KEYS  1 meta  2 lease  3 live requests
-- ARGV  1 ms until the reaper looks again  2 '1' if the queue may still hold its message
-- Returns 'wake' (send a wake-up), 'wait' (all is well) or 'gone' (ended or expired).

local id = string.match(KEYS[1], '{(.-)}')
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then
  redis.call('ZREM', KEYS[3], id)
  return 'gone'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = redis.call('PTTL', KEYS[2])
if left > 0 then
  redis.call('ZADD', KEYS[3], now + left, id)
  return 'wait'
end
if state == 'queued' and ARGV[2] == '1' then
  redis.call('ZADD', KEYS[3], now + ARGV[1], id)
  return 'wait'
end
-- Each further wake-up for the same request comes later: its worker may only be busy.
local sent = redis.call('HINCRBY', KEYS[1], 'woken', 1)
redis.call('ZADD', KEYS[3], now + ARGV[1] * 2 ^ math.min(sent - 1, 6), id)
return 'wake'
