-- Claim one shard of a job for one step.
--
-- KEYS  1 meta  2 shards  3 shard lease  4 claims  5 live shards  6 run
-- ARGV  1 shard  2 worker  3 lease in ms  4 ms by which a wake-up may be early
-- Returns {'claimed', epoch, shard, cancel, paused}, {'gone'}, {'ended', state},
--         {'leased', holder}, {'early', ms left}, or {'restarted', ms}: Redis was restarted, try
--         again after that time.
--         A message that finds its shard leased or not due is redundant: another one exists, or
--         will be sent.
--
-- The epoch is Redis's clock in ms, or more: higher than the epoch of every earlier claim, also of
-- those that Redis lost in a restart.

-- include now_ms.lua
-- include record_id.lua
-- include restart_grace.lua

local meta_key, shards_key, lease_key, claims_key, live_key, run_key = unpack(KEYS)
local number, worker, lease_ms, early_ms = unpack(ARGV)

local member = record_id(meta_key) .. '/' .. number
local state, cancel, paused = unpack(redis.call('HMGET', meta_key, 'state', 'cancel', 'paused'))
local shard = redis.call('HGET', shards_key, number)
if not state or not shard then
  redis.call('ZREM', live_key, member)
  return {'gone'}
end
if state ~= 'queued' and state ~= 'running' then
  redis.call('ZREM', live_key, member)
  return {'ended', state}
end
local holder = redis.call('GET', lease_key)
if holder then
  return {'leased', holder}
end
local now = now_ms()
local wait_ms = restart_grace(run_key, now, lease_ms)
if wait_ms > 0 then
  return {'restarted', wait_ms}
end
local last_claim, due_ms = unpack(redis.call('HMGET', claims_key, number, number .. ':due'))
local left = tonumber(due_ms or 0) - now
if left > tonumber(early_ms) then
  return {'early', left}
end
local epoch = now
if last_claim then
  epoch = math.max(epoch, tonumber(string.match(last_claim, '^%d+')) + 1)
end
local shown = string.format('%.0f', epoch)
redis.call('HSET', claims_key, number, shown .. ' ' .. worker)
redis.call('HDEL', claims_key, number .. ':due', number .. ':woken')
redis.call('SET', lease_key, worker .. ':' .. shown, 'PX', lease_ms)
redis.call('ZADD', live_key, now + lease_ms, member)
if redis.call('TTL', claims_key) < 0 then
  redis.call('EXPIRE', claims_key, math.max(redis.call('TTL', meta_key), 1))
end
if state == 'queued' then
  redis.call('HSET', meta_key, 'state', 'running')
end
return {'claimed', epoch, shard, cancel or '', paused or ''}
