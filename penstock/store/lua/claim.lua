-- Claim a request: raise its epoch, which fences every earlier writer, and take the lease.
--
-- KEYS  1 meta  2 lease  3 live requests  4 run
-- ARGV  1 worker  2 lease in ms
-- Returns {'claimed', epoch, n, cancel, worker_losses}, {'gone'}, {'ended', state},
--         {'leased', holder}, {'invalid', field} for a field that is not a whole number, or
--         {'restarted', ms}: Redis was restarted, try again after that time.
--         `worker_losses` counts the claims that ended without a release.

-- include now_ms.lua
-- include record_id.lua
-- include restart_grace.lua
-- include next_epoch.lua

local meta_key, lease_key, live_key, run_key = unpack(KEYS)
local worker, lease_ms = unpack(ARGV)

local id = record_id(meta_key)
local state, epoch, n, cancel, worker_losses = unpack(
  redis.call('HMGET', meta_key, 'state', 'epoch', 'n', 'cancel', 'worker_losses'))
if not state then
  redis.call('ZREM', live_key, id)
  return {'gone'}
end
if state == 'done' or state == 'failed' or state == 'canceled' then
  redis.call('ZREM', live_key, id)
  return {'ended', state}
end
local holder = redis.call('GET', lease_key)
if holder then
  return {'leased', holder}
end
for field, value in pairs({ epoch = epoch, n = n, worker_losses = worker_losses or '0' }) do
  -- before anything is written: such a record must not be claimed again and again
  if not value or #value > 15 or not value:match('^%d+$') then
    return {'invalid', field}
  end
end
local now = now_ms()
local wait_ms = restart_grace(run_key, now, lease_ms)
if wait_ms > 0 then
  return {'restarted', wait_ms}
end
worker_losses = tonumber(worker_losses or 0)
if state == 'running' then
  worker_losses = redis.call('HINCRBY', meta_key, 'worker_losses', 1)
end
epoch = next_epoch(epoch, now)
redis.call('SET', lease_key, worker .. ':' .. epoch, 'PX', lease_ms)
redis.call('HSET', meta_key, 'state', 'running', 'epoch', epoch, 'worker', worker)
redis.call('HSETNX', meta_key, 'started_ms', now)
redis.call('HDEL', meta_key, 'waits_for', 'wait_until_ms', 'woken')
redis.call('ZADD', live_key, now + lease_ms, id)
return {'claimed', tonumber(epoch), tonumber(n), cancel or '', worker_losses}
