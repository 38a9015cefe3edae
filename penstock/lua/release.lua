-- Give a claimed record back to the queue: nothing was lost, another claim may follow at once.
--
-- KEYS  1 meta  2 lease
-- ARGV  1 worker  2 epoch
-- Returns 1, or 0 when it was not ours any more.

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then
  return 0
end
if redis.call('GET', KEYS[2]) == ARGV[1] .. ':' .. ARGV[2] then
  redis.call('DEL', KEYS[2])
end
if redis.call('HGET', KEYS[1], 'state') == 'running' then
  redis.call('HSET', KEYS[1], 'state', 'queued')
end
return 1
