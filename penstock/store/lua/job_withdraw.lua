-- Remove a job that was just recorded, unless a worker has begun with it.
--
-- KEYS  1 meta  2 log  3 shards  4 claims  5 money  6 live shards  7 jobs
-- Returns 1 if there is no such job now, 0 if a worker has begun.

-- include record_id.lua
-- include of_type.lua

local meta_key, log_key, shards_key, claims_key, money_key, live_key, jobs_key = unpack(KEYS)

local state = redis.call('HGET', meta_key, 'state')
if state and state ~= 'queued' then
  return 0  -- the first claim of a shard ends this state
end
of_type(live_key, 'zset')
of_type(jobs_key, 'zset')
local id = record_id(meta_key)
for _, number in ipairs(redis.call('HKEYS', shards_key)) do
  redis.call('ZREM', live_key, id .. '/' .. number)
end
redis.call('ZREM', jobs_key, id)
redis.call('DEL', meta_key, log_key, shards_key, claims_key, money_key)
return 1
