-- Give a claimed request back to the queue: nothing was lost, and another claim may follow at once.
--
-- KEYS  1 meta  2 lease  3 live requests  4 log  5 text  6 body
-- ARGV  1 worker  2 epoch  3 ms until its wake-up is due
--       4 ms from then until the reaper checks it  5 what it waits for ('' = a worker)
--       6 ttl in s, from the time its wake-up is due: a record lives longer than it waits
-- Returns 1, or 0 if the claim was lost.

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include next_check.lua

local meta_key, lease_key, live_key, log_key, text_key, body_key = unpack(KEYS)
local worker, epoch, due_in_ms, wait_ms, waits_for, ttl_s = unpack(ARGV)

local its_epoch, its_worker, state = unpack(
  redis.call('HMGET', meta_key, 'epoch', 'worker', 'state'))
if its_epoch ~= epoch or its_worker ~= worker then
  return 0
end
redis.call('DEL', lease_key)
if state == 'running' then
  local due_ms = now_ms() + due_in_ms
  redis.call('HSET', meta_key, 'state', 'queued', 'wait_until_ms', due_ms)
  if waits_for ~= '' then
    redis.call('HSET', meta_key, 'waits_for', waits_for)
  end
  for _, key in ipairs({meta_key, log_key, text_key, body_key}) do
    redis.call('EXPIRE', key, ttl_s + math.ceil(due_in_ms / 1000))
  end
  of_type(live_key, 'zset')
  redis.call('ZADD', live_key, next_check(meta_key, due_ms + wait_ms), record_id(meta_key))
end
return 1
