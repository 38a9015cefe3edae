-- Give a claimed request back to the queue: nothing was lost, and another claim may follow at once.
--
-- KEYS  1 meta  2 lease  3 live requests
-- ARGV  1 worker  2 epoch  3 ms until its wake-up is due
--       4 ms from then until the reaper checks it
-- Returns 1, or 0 if the claim was lost.

-- include now_ms.lua
-- include record_id.lua

local meta_key, lease_key, live_key = unpack(KEYS)
local worker, epoch, due_in_ms, wait_ms = unpack(ARGV)

local its_epoch, its_worker, state = unpack(
  redis.call('HMGET', meta_key, 'epoch', 'worker', 'state'))
if its_epoch ~= epoch or its_worker ~= worker then
  return 0
end
redis.call('DEL', lease_key)
if state == 'running' then
  local due_ms = now_ms() + due_in_ms
  redis.call('HSET', meta_key, 'state', 'queued', 'due_ms', due_ms)
  redis.call('ZADD', live_key, due_ms + wait_ms, record_id(meta_key))
end
return 1
