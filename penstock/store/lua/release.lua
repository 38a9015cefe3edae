-- Give a claimed record back to the queue: nothing was lost, another claim may follow at once.
--
-- KEYS  1 meta  2 lease  3 live requests
-- ARGV  1 worker  2 epoch  3 ms until its wake-up is due  4 ms after that until the reaper looks
-- Returns 1, or 0 when it was not ours any more.

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'worker', 'state')
if meta[1] ~= ARGV[2] or meta[2] ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
if meta[3] == 'running' then
  local time = redis.call('TIME')
  local due = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
  redis.call('HSET', KEYS[1], 'state', 'queued', 'due_ms', due)
  redis.call('ZADD', KEYS[3], due + ARGV[4], string.match(KEYS[1], '{(.-)}'))
end
return 1
