-- Take a size for one create call: while its fate is open no other call of this size is made, so
-- that a batch in the API's list can be told by its size.
--
-- KEYS  1 tag
-- ARGV  1 <job>/<shard>  2 nonce  3 ttl in s  4, 5 a field to drop first if it has this value still
--       ('' = none)
-- Returns '' (taken, now or before), or the field and the value of the call that has it.

if ARGV[4] ~= '' and redis.call('HGET', KEYS[1], ARGV[4]) == ARGV[5] then
  redis.call('HDEL', KEYS[1], ARGV[4])
end
local mine = 'open:' .. ARGV[1]
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  if string.sub(found[i], 1, 5) == 'open:' and found[i] ~= mine then
    return {found[i], found[i + 1]}
  end
end
redis.call('HSET', KEYS[1], mine, ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return ''
