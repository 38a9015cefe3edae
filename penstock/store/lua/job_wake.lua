-- Cancel a job, or resume a paused one: every open shard becomes due now, and the reaper sends its
-- wake-up.
--
-- KEYS  1 meta  2 shards  3 claims  4 live shards  5 log  6 events channel
-- ARGV  1 'cancel' or 'resume'  2 who asks  3 event's data ('' = none; logged if anything changed)
-- Returns {state, changed}: the state found ('' = there is no such job), and 1 if this call changed
--         anything.

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include job_event.lua

local meta_key, shards_key, claims_key, live_key, log_key, events_channel = unpack(KEYS)
local action, who, event = unpack(ARGV)

local state, cancel, paused = unpack(redis.call('HMGET', meta_key, 'state', 'cancel', 'paused'))
if not state then
  return {'', 0}
end
if state ~= 'queued' and state ~= 'running' then
  return {state, 0}
end
local changed = 0
of_type(live_key, 'zset')
if action == 'cancel' then
  changed = redis.call('HSETNX', meta_key, 'cancel', who)
elseif paused then
  changed = 1
end
if changed == 0 then
  return {state, 0}
end
redis.call('HDEL', meta_key, 'paused')  -- a job that is to be canceled need not be resumed first
local id = record_id(meta_key)
local now = now_ms()
if action == 'cancel' then
  redis.call('HSET', meta_key, 'cancel_ms', now)
end
for _, number in ipairs(redis.call('HKEYS', shards_key)) do
  -- A shard that is done is removed from the set when the reaper checks it.
  redis.call('HDEL', claims_key, number .. ':due')
  redis.call('ZADD', live_key, now, id .. '/' .. number)
end
if event ~= '' then
  job_event(meta_key, log_key, events_channel, event)
end
return {state, 1}
