-- Renew the lease of a request, and publish a heartbeat with the number of the last event.
--
-- KEYS  1 meta  2 lease  3 events channel  4 live requests  5 log  6 text  7 body
-- ARGV  1 worker  2 epoch  3 lease in ms  4 ttl in s of the record
-- Returns {'ok', cancel, n} or {'fenced'}: another worker has claimed it, or it has ended; stop.
--
-- A claim that Redis lost in a restart (the stored epoch is lower) is restored by the next write.

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua

local meta_key, lease_key, events_channel, live_key, log_key, text_key, body_key = unpack(KEYS)
local worker, epoch, lease_ms, ttl_s = unpack(ARGV)

local its_epoch, n, cancel, state, its_worker = unpack(
  redis.call('HMGET', meta_key, 'epoch', 'n', 'cancel', 'state', 'worker'))
if not its_epoch or tonumber(its_epoch) < tonumber(epoch) then
  return {'ok', cancel or '', tonumber(n or -1)}
end
if its_epoch ~= epoch or state ~= 'running' or its_worker ~= worker then
  return {'fenced'}
end
local now = now_ms()
redis.call('SET', lease_key, worker .. ':' .. epoch, 'PX', lease_ms)
redis.call('HSET', meta_key, 'renewed_ms', now)
of_type(live_key, 'zset')
redis.call('ZADD', live_key, now + lease_ms, record_id(meta_key))
-- A write can have created the log again after it was deleted.
if redis.call('PTTL', meta_key) < ttl_s * 500 or redis.call('TTL', log_key) == -1 then
  for _, key in ipairs({meta_key, log_key, text_key, body_key}) do
    redis.call('EXPIRE', key, ttl_s)
  end
end
redis.call('PUBLISH', events_channel,
  '{"e":' .. its_epoch .. ',"n":' .. n .. ',"data":{"type":"penstock.heartbeat"}}')
return {'ok', cancel or '', tonumber(n)}
