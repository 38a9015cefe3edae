-- Check a live request whose time has come: does it need another wake-up?
--
-- KEYS  1 meta  2 lease  3 live requests
-- ARGV  1 ms until the reaper checks it again  2 '1' if its message may still be in the queue
-- Returns 'wake' (send a wake-up), 'wait' (not needed now) or 'gone' (ended or expired).

-- include now_ms.lua
-- include record_id.lua

local meta_key, lease_key, live_key = unpack(KEYS)
local wait_ms, may_be_queued = unpack(ARGV)

local id = record_id(meta_key)
local state = redis.call('HGET', meta_key, 'state')
if state ~= 'queued' and state ~= 'running' then
  redis.call('ZREM', live_key, id)
  return 'gone'
end
local now = now_ms()
local lease_left = redis.call('PTTL', lease_key)
if lease_left > 0 then
  redis.call('ZADD', live_key, now + lease_left, id)
  return 'wait'
end
if state == 'queued' and may_be_queued == '1' then
  redis.call('ZADD', live_key, now + wait_ms, id)
  return 'wait'
end
-- Each further wake-up for a request is sent later: the workers may only be busy.
local sent = redis.call('HINCRBY', meta_key, 'woken', 1)
redis.call('ZADD', live_key, now + wait_ms * 2 ^ math.min(sent - 1, 6), id)
return 'wake'
