-- Renew a lease that is still ours, and publish a heartbeat with the number of the last event.
--
-- KEYS  1 meta  2 lease  3 events channel
-- ARGV  1 worker  2 epoch  3 lease in ms  4 heartbeat with '%n' for the number ('' = none)
-- Returns {'ok', cancel} or {'fenced'}: somebody else claimed it, or it has ended; stop.

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'cancel', 'state')
if meta[1] ~= ARGV[2] or meta[4] ~= 'running' then
  return {'fenced'}
end
redis.call('SET', KEYS[2], ARGV[1] .. ':' .. ARGV[2], 'PX', ARGV[3])
if ARGV[4] ~= '' then
  redis.call('PUBLISH', KEYS[3], (ARGV[4]:gsub('%%n', meta[2])))
end
return {'ok', meta[3] or ''}
