-- Claim one shard of a job for one step.
--
-- KEYS  1 meta  2 shards  3 shard lease
-- ARGV  1 shard  2 worker  3 lease in ms
-- Returns {'claimed', epoch, shard, cancel} or {'gone'} or {'ended', state} or {'leased', holder}.

local meta = redis.call('HMGET', KEYS[1], 'state', 'cancel')
local shard = redis.call('HGET', KEYS[2], ARGV[1])
if not meta[1] or not shard then
  return {'gone'}
end
if meta[1] == 'done' or meta[1] == 'failed' or meta[1] == 'canceled' then
  return {'ended', meta[1]}
end
local holder = redis.call('GET', KEYS[3])
if holder then
  return {'leased', holder}
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch:' .. ARGV[1], 1)
redis.call('SET', KEYS[3], ARGV[2] .. ':' .. epoch, 'PX', ARGV[3])
if meta[1] == 'queued' then
  redis.call('HSET', KEYS[1], 'state', 'running')
end
return {'claimed', epoch, shard, meta[2] or ''}
