-- Claim one shard of a job for one step.
--
-- KEYS  1 meta  2 shards  3 shard lease  4 claims  5 live shards  6 run
-- ARGV  1 shard  2 worker  3 lease in ms  4 ms by which a wake-up may come before its time
-- Returns {'claimed', epoch, shard, cancel, paused} or {'gone'} or {'ended', state}
--         or {'leased', holder} or {'early', ms that are left} or {'restarted', ms}: Redis was
--         restarted, try again after that. A message that finds its shard
--         leased or not due is one too many: there is, or will be, another.
--
-- The epoch is Redis's clock in ms, or more: it is higher than that of every earlier claim, also of
-- those that Redis forgot in a restart.

-- include restart_grace.lua

local id = string.match(KEYS[1], '{(.-)}')
local member = id .. '/' .. ARGV[1]
local meta = redis.call('HMGET', KEYS[1], 'state', 'cancel', 'paused')
local shard = redis.call('HGET', KEYS[2], ARGV[1])
if not meta[1] or not shard then
  redis.call('ZREM', KEYS[5], member)
  return {'gone'}
end
if meta[1] ~= 'queued' and meta[1] ~= 'running' then
  redis.call('ZREM', KEYS[5], member)
  return {'ended', meta[1]}
end
local holder = redis.call('GET', KEYS[3])
if holder then
  return {'leased', holder}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local settled_in = restart_grace(KEYS[6], now, ARGV[3])
if settled_in > 0 then
  return {'restarted', settled_in}
end
local claims = redis.call('HMGET', KEYS[4], ARGV[1], ARGV[1] .. ':due')
local left = tonumber(claims[2] or 0) - now
if left > tonumber(ARGV[4]) then
  return {'early', left}
end
local epoch = now
if claims[1] then
  epoch = math.max(epoch, tonumber(string.match(claims[1], '^%d+')) + 1)
end
local shown = string.format('%.0f', epoch)
redis.call('HSET', KEYS[4], ARGV[1], shown .. ' ' .. ARGV[2])
redis.call('HDEL', KEYS[4], ARGV[1] .. ':due', ARGV[1] .. ':woken')
redis.call('SET', KEYS[3], ARGV[2] .. ':' .. shown, 'PX', ARGV[3])
redis.call('ZADD', KEYS[5], now + ARGV[3], member)
if redis.call('TTL', KEYS[4]) < 0 then
  redis.call('EXPIRE', KEYS[4], math.max(redis.call('TTL', KEYS[1]), 1))
end
if meta[1] == 'queued' then
  redis.call('HSET', KEYS[1], 'state', 'running')
end
return {'claimed', epoch, shard, meta[2] or '', meta[3] or ''}
