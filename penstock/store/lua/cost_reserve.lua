-- Reserve what a shard can cost at the most, under the job's money cap.
--
-- KEYS  1 money
-- ARGV  1 shard  2 millionths of a dollar  3 ttl in s
-- Returns 'ok' (reserved, now or before; also when there is no cap), 'wait' (others have to be
--         settled first) or 'over' (it does not fit, with nothing else reserved).

local cap = redis.call('HGET', KEYS[1], 'cap')
if not cap then
  return 'ok'
end
local mine = 'reserved:' .. ARGV[1]
local money = redis.call('HGETALL', KEYS[1])
local taken, others = 0, false
for i = 1, #money, 2 do
  if money[i] == 'spent' then
    taken = taken + money[i + 1]
  elseif money[i] ~= 'cap' and money[i] ~= mine then
    taken = taken + money[i + 1]
    others = true
  end
end
if taken + ARGV[2] > tonumber(cap) then
  return others and 'wait' or 'over'
end
redis.call('HSET', KEYS[1], mine, ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 'ok'
