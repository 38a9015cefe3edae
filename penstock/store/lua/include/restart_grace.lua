-- Included by the scripts that claim. A Redis that was restarted may have lost the claims of live
-- workers, whose API calls are paid for. So nothing is claimed until each of them has had the time
-- of one lease to renew its own.
--
-- `run` holds the Redis process that was seen last. If it is missing, nothing was ever claimed.
-- Returns the ms left; 0 or less: a claim may be made.
local function restart_grace(run, now, lease_ms)
  local id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local seen = redis.call('HMGET', run, 'id', 'since_ms')
  local since = seen[2]
  if seen[1] ~= id then
    since = seen[1] and now or 0
    redis.call('HSET', run, 'id', id, 'since_ms', since)
  end
  return since + lease_ms - now
end
