-- Record a request or a job, and log its first event, once.
--
-- KEYS  1 meta  2 log  3 events channel  [4 body  5 live requests]
-- ARGV  1 ttl in s  2 first event (JSON)  3 body  4 ms until the reaper checks it
--       5.. field, value of meta; `deadline_ms` is given in ms from now. All times in the record are
--       those of Redis: the clocks of producers and workers differ.
-- Returns 1 if it is recorded, 0 if a record with this id exists (nothing is changed).

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua

local meta_key, log_key, events_channel, body_key, live_key = unpack(KEYS)
local ttl_s, event, body, wait_ms = unpack(ARGV, 1, 4)

if redis.call('EXISTS', meta_key) == 1 then
  return 0
end
if live_key then
  of_type(live_key, 'zset')
end
local fields = {}
for i = 5, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
local now = now_ms()
redis.call('HSET', meta_key, 'state', 'queued', 'epoch', 0, 'n', 1, 'created_ms', now, unpack(fields))
if redis.call('HEXISTS', meta_key, 'deadline_ms') == 1 then
  redis.call('HINCRBY', meta_key, 'deadline_ms', now)
end
redis.call('XADD', log_key, '0-1', 'd', event)
redis.call('EXPIRE', meta_key, ttl_s)
redis.call('EXPIRE', log_key, ttl_s)
if body_key then
  redis.call('SET', body_key, body, 'EX', ttl_s)
  redis.call('ZADD', live_key, now + wait_ms, record_id(meta_key))
end
redis.call('PUBLISH', events_channel, event)
return 1
