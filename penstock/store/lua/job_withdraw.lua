-- Take back a job that was recorded, as if it had never been, unless a worker has begun with it.
--
-- KEYS  1 meta  2 log  3 shards  4 claims  5 money  6 live shards  7 jobs
-- Returns 1 when there is no such job now, 0 when it goes on.

local state = redis.call('HGET', KEYS[1], 'state')
if state and state ~= 'queued' then
  return 0  -- the first claim of a shard takes it out of this state
end
local id = string.match(KEYS[1], '{(.-)}')
for _, number in ipairs(redis.call('HKEYS', KEYS[3])) do
  redis.call('ZREM', KEYS[6], id .. '/' .. number)
end
redis.call('ZREM', KEYS[7], id)
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 1
