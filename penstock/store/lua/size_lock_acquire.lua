-- Lock a number of requests for one create call: until its outcome is known, no other call of this
-- size is made, so that a batch in the API's list can be identified by its size.
--
-- KEYS  1 size lock
-- ARGV  1 <job>/<shard>  2 nonce  3 ttl in s  4, 5 a field to remove first if it still has this
--       value ('' = none)
-- Returns '' (locked, now or before), or the field and the value of the call that holds the lock.

-- include of_type.lua

local lock_key = KEYS[1]
local member, nonce, ttl_s, stale_field, stale_value = unpack(ARGV)

of_type(lock_key, 'hash')
if stale_field ~= '' and redis.call('HGET', lock_key, stale_field) == stale_value then
  redis.call('HDEL', lock_key, stale_field)
end
local mine = 'open:' .. member
local found = redis.call('HGETALL', lock_key)
for i = 1, #found, 2 do
  if string.sub(found[i], 1, 5) == 'open:' and found[i] ~= mine then
    return {found[i], found[i + 1]}
  end
end
redis.call('HSET', lock_key, mine, nonce)
redis.call('EXPIRE', lock_key, ttl_s)
return ''
