-- Renew the lease of a claimed shard.
--
-- KEYS  1 meta  2 shard lease  3 claims  4 live shards  5 shards
-- ARGV  1 shard  2 worker  3 epoch  4 lease in ms
-- Returns {'ok', cancel} or {'fenced'}: given up, claimed by another worker, or the job has ended;
--         stop.
--
-- A claim that Redis lost in a restart (the stored epoch is lower) is restored, if no other worker
-- has claimed the shard since.

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include restorable.lua

local meta_key, lease_key, claims_key, live_key, shards_key = unpack(KEYS)
local number, worker, epoch, lease_ms = unpack(ARGV)

local state, cancel = unpack(redis.call('HMGET', meta_key, 'state', 'cancel'))
if state ~= 'queued' and state ~= 'running' then
  return {'fenced'}
end
local mine, lease = epoch .. ' ' .. worker, worker .. ':' .. epoch
local last_claim = redis.call('HGET', claims_key, number)
if last_claim ~= mine then
  if last_claim and tonumber(string.match(last_claim, '^%d+')) >= tonumber(epoch) then
    return {'fenced'}
  end
  local holder = redis.call('GET', lease_key)
  if holder and holder ~= lease or not restorable(shards_key, number) then
    return {'fenced'}
  end
  redis.call('HSET', claims_key, number, mine)
  redis.call('EXPIRE', claims_key, math.max(redis.call('TTL', meta_key), 1))
end
local now = now_ms()
redis.call('SET', lease_key, lease, 'PX', lease_ms)
of_type(live_key, 'zset')
redis.call('ZADD', live_key, now + lease_ms, record_id(meta_key) .. '/' .. number)
return {'ok', cancel or ''}
