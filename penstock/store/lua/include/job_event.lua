-- Included by the scripts that log an event of a job: number it, log it and publish it. The events
-- of a job are numbered in Redis, since several processes work on its shards.
local function job_event(meta_key, log_key, events_channel, data)
  local n = redis.call('HINCRBY', meta_key, 'n', 1)
  local line = '{"e":0,"n":' .. n .. ',"data":' .. data .. '}'
  redis.call('XADD', log_key, '0-' .. n, 'd', line)
  if redis.call('TTL', log_key) == -1 then  -- created again after it was deleted
    redis.call('EXPIRE', log_key, math.max(redis.call('TTL', meta_key), 1))
  end
  redis.call('PUBLISH', events_channel, line)
end
