-- Look at one shard whose time has come: does it need a new wake-up?
--
-- KEYS  1 meta  2 shards  3 shard lease  4 claims  5 live shards
-- ARGV  1 shard  2 ms until the reaper looks again
-- Returns {'wake', record of the shard} (send a wake-up), {'wait'} (all is well) or {'gone'} (its
--         job has ended or expired).

local member = string.match(KEYS[1], '{(.-)}') .. '/' .. ARGV[1]
local state = redis.call('HGET', KEYS[1], 'state')
local shard = redis.call('HGET', KEYS[2], ARGV[1])
if (state ~= 'queued' and state ~= 'running') or not shard then
  redis.call('ZREM', KEYS[5], member)
  return {'gone'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = redis.call('PTTL', KEYS[3])
if left > 0 then
  redis.call('ZADD', KEYS[5], now + left, member)
  return {'wait'}
end
-- Each further wake-up comes later: the workers may only be busy.
local sent = redis.call('HINCRBY', KEYS[4], ARGV[1] .. ':woken', 1)
redis.call('EXPIRE', KEYS[4], math.max(redis.call('TTL', KEYS[1]), 1))
redis.call('ZADD', KEYS[5], now + ARGV[2] * math.min(2 ^ (sent - 1), 6), member)
return {'wake', shard}
