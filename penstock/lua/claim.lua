-- Claim a record: raise its epoch, which shuts out every earlier writer, and take the lease.
--
-- KEYS  1 meta  2 lease
-- ARGV  1 worker  2 lease in ms  3 now in ms since 1970
-- Returns {'claimed', epoch, n, cancel} or {'gone'} or {'ended', state} or {'leased', holder}.

local meta = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'n', 'cancel')
if not meta[1] then
  return {'gone'}
end
if meta[1] == 'done' or meta[1] == 'failed' or meta[1] == 'canceled' then
  return {'ended', meta[1]}
end
local holder = redis.call('GET', KEYS[2])
if holder then
  return {'leased', holder}
end
local epoch = tonumber(meta[2]) + 1
redis.call('SET', KEYS[2], ARGV[1] .. ':' .. epoch, 'PX', ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'running', 'epoch', epoch, 'worker', ARGV[1])
redis.call('HSETNX', KEYS[1], 'started_ms', ARGV[3])
return {'claimed', epoch, tonumber(meta[3]), meta[4] or ''}
