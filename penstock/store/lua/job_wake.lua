-- Cancel a job, or go on with a paused one: every shard that is not done with becomes due now, and
-- the reaper sends its wake-up.
--
-- KEYS  1 meta  2 shards  3 claims  4 live shards  5 log  6 events channel
-- ARGV  1 'cancel' or 'resume'  2 who asks  3 event's data ('' = none; logged if anything changed)
-- Returns {state, changed}: the state found ('' = there is no such job), and 1 if this call changed
--         anything.

local meta = redis.call('HMGET', KEYS[1], 'state', 'cancel', 'paused')
if not meta[1] then
  return {'', 0}
end
if meta[1] ~= 'queued' and meta[1] ~= 'running' then
  return {meta[1], 0}
end
local changed = 0
if ARGV[1] == 'cancel' then
  changed = redis.call('HSETNX', KEYS[1], 'cancel', ARGV[2])
elseif meta[3] then
  changed = 1
end
if changed == 0 then
  return {meta[1], 0}
end
redis.call('HDEL', KEYS[1], 'paused')  -- a job that is to be canceled need not be resumed first
local id = string.match(KEYS[1], '{(.-)}')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] == 'cancel' then
  redis.call('HSET', KEYS[1], 'cancel_ms', now)
end
for _, number in ipairs(redis.call('HKEYS', KEYS[2])) do
  -- One that is done with leaves the set when the reaper looks at it.
  redis.call('HDEL', KEYS[3], number .. ':due')
  redis.call('ZADD', KEYS[4], now, id .. '/' .. number)
end
if ARGV[3] ~= '' then
  local n = redis.call('HINCRBY', KEYS[1], 'n', 1)
  local line = '{"e":0,"n":' .. n .. ',"data":' .. ARGV[3] .. '}'
  redis.call('XADD', KEYS[5], '0-' .. n, 'd', line)
  redis.call('PUBLISH', KEYS[6], line)
end
return {meta[1], 1}
