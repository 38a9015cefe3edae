-- Check a live shard whose time has come: does it need another wake-up?
--
-- KEYS  1 meta  2 shards  3 shard lease  4 claims  5 live shards  6 run
-- ARGV  1 shard  2 ms until the reaper checks it again  3 lease in ms
-- Returns {'wake', record of the shard} (send a wake-up), {'wait'} (not needed now) or {'gone'}
--         (its job has ended or expired).

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include grace.lua
-- include lease_left.lua
-- include wrong_type.lua

local meta_key, shards_key, lease_key, claims_key, live_key, run_key = unpack(KEYS)
local number, wait_ms, lease_ms = unpack(ARGV)

local member = record_id(meta_key) .. '/' .. number
of_type(live_key, 'zset')
of_type(claims_key, 'hash')
if wrong_type({ [meta_key] = 'hash', [shards_key] = 'hash' }) then
  redis.call('ZADD', live_key, now_ms() + wait_ms, member)
  return {'wake', ''}  -- a worker fails the job, and reports why
end
local state = redis.call('HGET', meta_key, 'state')
local shard = redis.call('HGET', shards_key, number)
if (state ~= 'queued' and state ~= 'running') or not shard then
  redis.call('ZREM', live_key, member)
  return {'gone'}
end
local now = now_ms()
local unheld_ms, held_ms = grace(run_key, now, lease_ms)
local held = string.match(redis.call('HGET', claims_key, number) or '', '^%d+ .')
local left_ms = math.max(lease_left(lease_key), held and held_ms or unheld_ms)
if left_ms > 0 then
  redis.call('ZADD', live_key, now + left_ms, member)
  return {'wait'}
end
-- Each further wake-up for a shard is sent later: the workers may only be busy.
local sent = (tonumber(redis.call('HGET', claims_key, number .. ':woken')) or 0) + 1
redis.call('HSET', claims_key, number .. ':woken', string.format('%.0f', sent))
redis.call('EXPIRE', claims_key, math.max(redis.call('TTL', meta_key), 1))
redis.call('ZADD', live_key, now + wait_ms * math.min(6, 2 ^ (sent - 1)), member)
return {'wake', shard}
