-- Claim a request: raise its epoch, which fences every earlier writer, and take the lease.
--
-- KEYS  1 meta  2 lease  3 live requests  4 run  5 log  6 text
-- ARGV  1 worker  2 lease in ms
-- Returns {'claimed', epoch, n, cancel, worker_losses}, {'gone'}, {'ended', state},
--         {'leased', holder}, {'invalid', what, problem} for a record that cannot be read, or
--         {'grace', ms}: the worker that holds it may live, try again after that time.
--         `worker_losses` counts the claims that ended without a release, unless Redis was
--         interrupted since their last renewal: that may have kept the worker from renewing.

-- include now_ms.lua
-- include record_id.lua
-- include next_epoch.lua
-- include of_type.lua
-- include grace.lua
-- include lease_left.lua
-- include wrong_type.lua

local meta_key, lease_key, live_key, run_key, log_key, text_key = unpack(KEYS)
local worker, lease_ms = unpack(ARGV)

local id = record_id(meta_key)
of_type(live_key, 'zset')
local part, problem = wrong_type({
  [meta_key] = 'hash', [log_key] = 'stream', [text_key] = 'string' })
if part then
  return {'invalid', part, problem}
end
local state, epoch, n, cancel, worker_losses, renewed_ms = unpack(redis.call('HMGET', meta_key,
  'state', 'epoch', 'n', 'cancel', 'worker_losses', 'renewed_ms'))
if not state then
  redis.call('ZREM', live_key, id)
  return {'gone'}
end
if state == 'done' or state == 'failed' or state == 'canceled' then
  redis.call('ZREM', live_key, id)
  return {'ended', state}
end
if lease_left(lease_key) > 0 then
  return {'leased', redis.call('GET', lease_key)}
end
for field, value in pairs({ epoch = epoch, n = n, worker_losses = worker_losses or '0' }) do
  -- before anything is written: such a record must not be claimed again and again
  if not value or #value > 15 or not value:match('^%d+$') then
    return {'invalid', 'the field \'' .. field .. '\'', 'is not a number'}
  end
end
-- Any program may have added an entry to the log. The next one must have a higher id.
local last = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
local last_epoch, last_n = string.match(last and last[1] or '0-0', '^(%d+)-(%d+)$')
if #last_epoch > 15 or #last_n > 15 then
  return {'invalid', log_key, 'has an entry that no other can follow'}
end
if state ~= 'queued' and state ~= 'running' then
  return {'invalid', 'the field \'state\'', 'is unknown'}
end
local now = now_ms()
local unheld_ms, held_ms, interrupted = grace(run_key, now, lease_ms)
local wait_ms = state == 'running' and held_ms or unheld_ms
if wait_ms > 0 then
  return {'grace', wait_ms}
end
worker_losses = tonumber(worker_losses or 0)
if state == 'running' and (tonumber(renewed_ms) or now) > interrupted then
  worker_losses = redis.call('HINCRBY', meta_key, 'worker_losses', 1)
end
epoch = next_epoch(math.max(epoch, last_epoch), now)
redis.call('SET', lease_key, worker .. ':' .. epoch, 'PX', lease_ms)
redis.call('HSET', meta_key, 'state', 'running', 'epoch', epoch, 'worker', worker)
redis.call('HSETNX', meta_key, 'started_ms', now)
redis.call('HSET', meta_key, 'renewed_ms', now)
redis.call('HDEL', meta_key, 'waits_for', 'wait_until_ms', 'woken')
redis.call('ZADD', live_key, now + lease_ms, id)
return {'claimed', tonumber(epoch), tonumber(n), cancel or '', worker_losses}
