-- Check a live request whose time has come: does it need another wake-up, or has its deadline passed
-- before any worker called the API?
--
-- KEYS  1 meta  2 lease  3 live requests  4 log  5 events channel  6 text  7 body  8 run
-- ARGV  1 ms until the reaper checks it again  2 '1' if its message may still be in the queue
--       3 data of the last event after the deadline (JSON)  4 error of the record then (JSON)
--       5, 6 the same if a worker was lost, which may have called the API without recording it
--       7 ttl in s of a request that ends here  8 lease in ms
-- Returns 'wake' (send a wake-up), 'wait' (not needed now) or 'gone' (ended or expired).

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include next_check.lua
-- include next_epoch.lua
-- include end_unclaimed.lua
-- include grace.lua
-- include lease_left.lua
-- include wrong_type.lua

local meta_key, lease_key, live_key, log_key, events_channel, text_key, body_key, run_key =
  unpack(KEYS)
local wait_ms, may_be_queued, end_event, error = unpack(ARGV, 1, 4)
local end_after_loss, error_after_loss, retention_s, lease_ms = unpack(ARGV, 5, 8)

local id = record_id(meta_key)
of_type(live_key, 'zset')
local now = now_ms()
if wrong_type({ [meta_key] = 'hash', [log_key] = 'stream', [text_key] = 'string' }) then
  redis.call('ZADD', live_key, now + wait_ms, id)
  return 'wake'  -- a worker fails it, and reports why
end
local state, deadline_ms, attempts, worker_losses = unpack(
  redis.call('HMGET', meta_key, 'state', 'deadline_ms', 'attempts', 'worker_losses'))
if not state or state == 'done' or state == 'failed' or state == 'canceled' then
  redis.call('ZREM', live_key, id)
  return 'gone'
end
local unheld_ms, held_ms = grace(run_key, now, lease_ms)
local left_ms = math.max(lease_left(lease_key), state == 'running' and held_ms or unheld_ms)
if left_ms > 0 then
  redis.call('ZADD', live_key, now + left_ms, id)
  return 'wait'
end
-- A field that is no number is reported by the worker that claims the request.
deadline_ms = tonumber(deadline_ms)
if deadline_ms and now > deadline_ms and (tonumber(attempts) or 0) == 0 then
  local names = {meta = meta_key, log = log_key, events = events_channel, live = live_key,
    text = text_key, body = body_key}
  if state == 'running' or (worker_losses and worker_losses ~= '0') then
    end_event, error = end_after_loss, error_after_loss
  end
  end_unclaimed(names, 'failed', end_event, retention_s, {'error', error})
  return 'gone'
end
if state == 'queued' and may_be_queued == '1' then
  redis.call('ZADD', live_key, next_check(meta_key, now + wait_ms), id)
  return 'wait'
end
-- Each further wake-up for a request is sent later: the workers may only be busy.
local sent = (tonumber(redis.call('HGET', meta_key, 'woken')) or 0) + 1
redis.call('HSET', meta_key, 'woken', string.format('%.0f', sent))
local again_ms = now + wait_ms * 2 ^ math.min(6, sent - 1)
redis.call('ZADD', live_key, next_check(meta_key, again_ms), id)
return 'wake'
