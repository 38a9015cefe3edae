-- Take a slot for a batch, so that the whole deployment stays within the API's limits.
--
-- KEYS  1 slots
-- ARGV  1 <job>/<shard>  2 its requests  3 most active batches  4 most requests in them
--       5 ms after which a slot that nobody gave back counts no more
-- Returns 1 when the shard has its slot (also when it had it before), 0 when it has to wait. A
-- shard that is larger than the limit by itself gets its slot once no other has one.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HGETALL', KEYS[1])
local batches, requests = 0, 0
for i = 1, #held, 2 do
  local size, ends = string.match(held[i + 1], '^(%d+) (%d+)$')
  if not ends or tonumber(ends) < now then
    redis.call('HDEL', KEYS[1], held[i])
  elseif held[i] ~= ARGV[1] then
    batches = batches + 1
    requests = requests + size
  end
end
if batches >= tonumber(ARGV[3]) or (batches > 0 and requests + ARGV[2] > tonumber(ARGV[4])) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[5]))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
