-- Claim a record: raise its epoch, which shuts out every earlier writer, and take the lease.
--
-- KEYS  1 meta  2 lease  3 live requests  4 run
-- ARGV  1 worker  2 lease in ms
-- Returns {'claimed', epoch, n, cancel, worker_losses} or {'gone'} or {'ended', state}
--         or {'leased', holder} or {'restarted', ms}: Redis was restarted, try again after that.
--         `worker_losses` counts the claims that ended without a word.

-- include restart_grace.lua

local id = string.match(KEYS[1], '{(.-)}')
local meta = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'n', 'cancel', 'worker_losses')
if not meta[1] then
  redis.call('ZREM', KEYS[3], id)
  return {'gone'}
end
if meta[1] == 'done' or meta[1] == 'failed' or meta[1] == 'canceled' then
  redis.call('ZREM', KEYS[3], id)
  return {'ended', meta[1]}
end
local holder = redis.call('GET', KEYS[2])
if holder then
  return {'leased', holder}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = restart_grace(KEYS[4], now, ARGV[2])
if wait > 0 then
  return {'restarted', wait}
end
local worker_losses = tonumber(meta[5] or 0)
if meta[1] == 'running' then
  worker_losses = redis.call('HINCRBY', KEYS[1], 'worker_losses', 1)
end
local epoch = tonumber(meta[2]) + 1
redis.call('SET', KEYS[2], ARGV[1] .. ':' .. epoch, 'PX', ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'running', 'epoch', epoch, 'worker', ARGV[1])
redis.call('HSETNX', KEYS[1], 'started_ms', now)
redis.call('HDEL', KEYS[1], 'due_ms', 'woken')
redis.call('ZADD', KEYS[3], now + ARGV[2], id)
return {'claimed', epoch, tonumber(meta[3]), meta[4] or '', worker_losses}
