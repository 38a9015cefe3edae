-- Record a request or a job and log its first event, once.
--
-- KEYS  1 meta  2 log  3 events channel  [4 body  5 live requests]
-- ARGV  1 ttl in s  2 first event (JSON)  3 body  4 ms after which the reaper looks at it
--       5.. field, value of meta
-- Returns 1 when recorded, 0 when a record with this id exists already (nothing is changed).

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local fields = {}
for i = 5, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
redis.call('HSET', KEYS[1], 'state', 'queued', 'epoch', 0, 'n', 1, unpack(fields))
redis.call('XADD', KEYS[2], '0-1', 'd', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
if KEYS[4] then
  redis.call('SET', KEYS[4], ARGV[3], 'EX', ARGV[1])
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZADD', KEYS[5], now + ARGV[4], string.match(KEYS[1], '{(.-)}'))
end
redis.call('PUBLISH', KEYS[3], ARGV[2])
return 1
