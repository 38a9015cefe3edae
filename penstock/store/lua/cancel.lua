-- Ask that a record be canceled. The flag is the truth; a worker that holds it sees the flag with
-- its next write, or at once by the wake-up on the control channel. A request that nobody holds
-- ends here and now.
--
-- KEYS  1 meta  2 log  3 events channel  4 control channel
--       [5 lease  6 live requests  7 text  8 body]
-- ARGV  1 who asks  2 data of the end event (JSON; '' = do not end it here)  3 ttl in s once ended
-- Returns the state it found, or '' when there is no such record (and none is made).

local meta = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'n')
if not meta[1] then
  return ''
end
if meta[1] ~= 'queued' and meta[1] ~= 'running' then
  return meta[1]
end
local id = string.match(KEYS[1], '{(.-)}')
redis.call('HSETNX', KEYS[1], 'cancel', ARGV[1])
if ARGV[2] ~= '' and meta[1] == 'queued' and redis.call('EXISTS', KEYS[5]) == 0 then
  local n = meta[3] + 1
  local line = '{"e":' .. meta[2] .. ',"n":' .. n .. ',"data":' .. ARGV[2] .. '}'
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('XADD', KEYS[2], meta[2] .. '-' .. n, 'd', line)
  redis.call('HSET', KEYS[1], 'state', 'canceled', 'n', n, 'ended_ms', now)
  for _, i in ipairs({1, 2, 7, 8}) do
    redis.call('EXPIRE', KEYS[i], ARGV[3])
  end
  redis.call('ZREM', KEYS[6], id)
  redis.call('PUBLISH', KEYS[3], line)
else
  redis.call('PUBLISH', KEYS[4], id)
end
return meta[1]
