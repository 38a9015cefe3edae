-- Included by the scripts that claim. A Redis that was restarted may have lost claims whose workers
-- live on, with calls that are paid for: nothing is claimed before each of them has had the time of
-- one lease to renew its own.
--
-- `run` names the Redis process that was seen last. Where there is none, nothing was ever claimed.
-- Returns the ms that are left; 0 or less: claim.
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
