-- Renew a lease that is still ours, and publish a heartbeat with the number of the last event.
--
-- KEYS  1 meta  2 lease  3 events channel  4 live requests  5 log  6 text  7 body
-- ARGV  1 worker  2 epoch  3 lease in ms  4 ttl in s of the record
-- Returns {'ok', cancel, n} or {'fenced'}: somebody else claimed it, or it has ended; stop.
--
-- A claim that Redis lost in a restart (its epoch is below ours) is for the next write to restore.

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'cancel', 'state', 'worker')
if not meta[1] or tonumber(meta[1]) < tonumber(ARGV[2]) then
  return {'ok', meta[3] or '', tonumber(meta[2] or -1)}
end
if meta[1] ~= ARGV[2] or meta[4] ~= 'running' or meta[5] ~= ARGV[1] then
  return {'fenced'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[2], ARGV[1] .. ':' .. ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[4], now + ARGV[3], string.match(KEYS[1], '{(.-)}'))
if redis.call('PTTL', KEYS[1]) < ARGV[4] * 500 then
  for _, i in ipairs({1, 5, 6, 7}) do
    redis.call('EXPIRE', KEYS[i], ARGV[4])
  end
end
redis.call('PUBLISH', KEYS[3],
  '{"e":' .. meta[1] .. ',"n":' .. meta[2] .. ',"data":{"type":"penstock.heartbeat"}}')
return {'ok', meta[3] or '', tonumber(meta[2])}
