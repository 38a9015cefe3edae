-- Fail a request or a job whose record no worker can read, once: it is not woken again, and readers
-- get a last event. What has the wrong type is removed.
--
-- KEYS  1 meta  2 lease  3 live requests or shards  4 log  5 events channel
--       6 text (of a job: shards)  7 body (of a job: money)
-- ARGV  1 data of the last event (JSON)  2 error of the record (JSON)  3 ttl in s
--       4 types of keys 6 and 7
-- Returns 1, or 0 if it has ended.

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include next_epoch.lua
-- include end_unclaimed.lua

local meta_key, lease_key, live_key, log_key, events_channel, text_key, body_key = unpack(KEYS)
local end_event, error, retention_s, kind = unpack(ARGV)

of_type(meta_key, 'hash')
of_type(log_key, 'stream')
of_type(text_key, kind)
of_type(body_key, kind)
local state = redis.call('HGET', meta_key, 'state')
if state == 'done' or state == 'failed' or state == 'canceled' then
  return 0
end
-- The next event must be above the last one of the log, whatever the record says.
redis.call('HDEL', meta_key, 'epoch', 'n')
local names = {meta = meta_key, log = log_key, events = events_channel, live = live_key,
  text = text_key, body = body_key}
end_unclaimed(names, 'failed', end_event, retention_s, {'error', error})
redis.call('DEL', lease_key)
return 1
