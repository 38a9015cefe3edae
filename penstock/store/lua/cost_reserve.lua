-- Reserve the maximum cost of a shard, under the cost cap of its job.
--
-- KEYS  1 money
-- ARGV  1 shard  2 millionths of a dollar  3 ttl in s
-- Returns 'ok' (reserved, now or before; also if there is no cap), 'wait' (other reservations have
--         to be settled first) or 'over' (it exceeds the cap, with nothing else reserved).

local money_key = KEYS[1]
local shard, amount, ttl_s = unpack(ARGV)

local cap = redis.call('HGET', money_key, 'cap')
if not cap then
  return 'ok'
end
local mine = 'reserved:' .. shard
local money = redis.call('HGETALL', money_key)
local taken, others = 0, false
for i = 1, #money, 2 do
  local field, value = money[i], money[i + 1]
  if field == 'spent' then
    taken = taken + value
  elseif field ~= 'cap' and field ~= mine then
    taken = taken + value
    others = true
  end
end
if taken + amount > tonumber(cap) then
  return others and 'wait' or 'over'
end
redis.call('HSET', money_key, mine, amount)
redis.call('EXPIRE', money_key, ttl_s)
return 'ok'
