-- Check a live shard whose time has come: does it need another wake-up?
--
-- KEYS  1 meta  2 shards  3 shard lease  4 claims  5 live shards
-- ARGV  1 shard  2 ms until the reaper checks it again
-- Returns {'wake', record of the shard} (send a wake-up), {'wait'} (not needed now) or {'gone'}
--         (its job has ended or expired).

-- include now_ms.lua
-- include record_id.lua

local meta_key, shards_key, lease_key, claims_key, live_key = unpack(KEYS)
local number, wait_ms = unpack(ARGV)

local member = record_id(meta_key) .. '/' .. number
local state = redis.call('HGET', meta_key, 'state')
local shard = redis.call('HGET', shards_key, number)
if (state ~= 'queued' and state ~= 'running') or not shard then
  redis.call('ZREM', live_key, member)
  return {'gone'}
end
local now = now_ms()
local lease_left = redis.call('PTTL', lease_key)
if lease_left > 0 then
  redis.call('ZADD', live_key, now + lease_left, member)
  return {'wait'}
end
-- Each further wake-up for a shard is sent later: the workers may only be busy.
local sent = redis.call('HINCRBY', claims_key, number .. ':woken', 1)
redis.call('EXPIRE', claims_key, math.max(redis.call('TTL', meta_key), 1))
redis.call('ZADD', live_key, now + wait_ms * math.min(2 ^ (sent - 1), 6), member)
return {'wake', shard}
