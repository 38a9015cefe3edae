-- Renew the lease of a claimed shard that is still ours.
--
-- KEYS  1 meta  2 shard lease  3 claims  4 live shards  5 shards
-- ARGV  1 shard  2 worker  3 epoch  4 lease in ms
-- Returns {'ok', cancel} or {'fenced'}: given up, claimed by somebody else, or the job has ended; stop.
--
-- A claim that Redis lost in a restart (the stored epoch is below ours) is taken again, as long
-- as nobody else has claimed the shard since.

-- include restorable.lua

local meta = redis.call('HMGET', KEYS[1], 'state', 'cancel')
if meta[1] ~= 'queued' and meta[1] ~= 'running' then
  return {'fenced'}
end
local mine = ARGV[3] .. ' ' .. ARGV[2]
local stored = redis.call('HGET', KEYS[3], ARGV[1])
if stored ~= mine then
  if stored and tonumber(string.match(stored, '^%d+')) >= tonumber(ARGV[3]) then
    return {'fenced'}
  end
  local holder = redis.call('GET', KEYS[2])
  if holder and holder ~= ARGV[2] .. ':' .. ARGV[3] or not restorable(KEYS[5], ARGV[1]) then
    return {'fenced'}
  end
  redis.call('HSET', KEYS[3], ARGV[1], mine)
  redis.call('EXPIRE', KEYS[3], math.max(redis.call('TTL', KEYS[1]), 1))
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[2], ARGV[2] .. ':' .. ARGV[3], 'PX', ARGV[4])
redis.call('ZADD', KEYS[4], now + ARGV[4], string.match(KEYS[1], '{(.-)}') .. '/' .. ARGV[1])
return {'ok', meta[2] or ''}
