-- Count a shard's batch among the active ones, so that the whole deployment stays within the API's
-- limits.
--
-- KEYS  1 active batches
-- ARGV  1 <job>/<shard>  2 its requests  3 maximum active batches  4 maximum requests in them
--       5 ms after which a batch that was not released no longer counts
-- Returns 1 if the batch is counted (now or before), 0 if it has to wait. A shard above the limit
-- on requests is counted once no other batch is active.

-- include now_ms.lua
-- include of_type.lua

local batches_key = KEYS[1]
local member, size, max_batches, max_requests, ttl_ms = unpack(ARGV)

of_type(batches_key, 'hash')
local now = now_ms()
local held = redis.call('HGETALL', batches_key)
local batches, requests = 0, 0
for i = 1, #held, 2 do
  local its_size, ends = string.match(held[i + 1], '^(%d+) (%d+)$')
  if not ends or tonumber(ends) < now or tonumber(ends) > now + 2 * ttl_ms then
    redis.call('HDEL', batches_key, held[i])
  elseif held[i] ~= member then
    batches = batches + 1
    requests = requests + its_size
  end
end
if batches >= tonumber(max_batches)
  or (batches > 0 and requests + size > tonumber(max_requests)) then
  return 0
end
redis.call('HSET', batches_key, member, size .. ' ' .. string.format('%.0f', now + ttl_ms))
redis.call('PEXPIRE', batches_key, ttl_ms)
return 1
