-- Claim one shard of a job for one step.
--
-- KEYS  1 meta  2 shards  3 shard lease  4 claims  5 live shards  6 run  7 log  8 money
-- ARGV  1 shard  2 worker  3 lease in ms  4 ms by which a wake-up may be early
-- Returns {'claimed', epoch, shard, cancel, paused}, {'gone'}, {'ended', state},
--         {'leased', holder}, {'early', ms left}, or {'grace', ms}: the worker that holds it may
--         live, try again after that time, or {'invalid', key, problem} for a record that cannot
--         be read.
--         A message that finds its shard leased or not due is redundant: another one exists, or
--         will be sent.
--
-- The epoch is Redis's clock in ms, or more: higher than the epoch of every earlier claim, also of
-- those that Redis lost in a restart.

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include grace.lua
-- include lease_left.lua
-- include wrong_type.lua

local meta_key, shards_key, lease_key, claims_key, live_key = unpack(KEYS, 1, 5)
local run_key, log_key, money_key = unpack(KEYS, 6, 8)
local number, worker, lease_ms, early_ms = unpack(ARGV)

local member = record_id(meta_key) .. '/' .. number
of_type(live_key, 'zset')
of_type(claims_key, 'hash')
local part, problem = wrong_type({ [meta_key] = 'hash', [shards_key] = 'hash',
  [log_key] = 'stream', [money_key] = 'hash' })
if part then
  return {'invalid', part, problem}
end
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
if lease_left(lease_key) > 0 then
  return {'leased', redis.call('GET', lease_key)}
end
local now = now_ms()
local last_claim, due_ms = unpack(redis.call('HMGET', claims_key, number, number .. ':due'))
local unheld_ms, held_ms = grace(run_key, now, lease_ms)
local held = last_claim and string.match(last_claim, '^%d+ .')
local wait_ms = held and held_ms or unheld_ms
if wait_ms > 0 then
  return {'grace', wait_ms}
end
local left = (tonumber(due_ms) or 0) - now
if left > tonumber(early_ms) then
  return {'early', left}
end
local epoch = now
local last_epoch = tonumber(string.match(last_claim or '', '^%d+'))
if last_epoch and last_epoch < 2 ^ 53 then
  epoch = math.max(epoch, last_epoch + 1)
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
