-- Included by the scripts that take work from a worker whose lease has expired. A lease also expires
-- if Redis took no writes for a while: it stalled, was full or failed over. And a Redis that was
-- restarted may have lost claims. The workers live, and their API calls are paid for. So each of
-- them first has the time of one lease to renew its own.
--
-- Every worker writes `beat_ms`, the time, to `run` twice a second or more. If the last one is older
-- than half a lease, no worker could write. The first script that finds this writes `stall_ms`.
-- `id` is the Redis process that was seen last, and `since_ms` when it was first seen. All times are
-- Redis's. A run without a field is one in which nothing happened yet.
-- Returns the ms left for a record that no worker holds (only a restart can have lost its claim),
-- the ms left for a record whose lease has expired, and the time of the last interruption.
local function grace(run, now, lease_ms)
  of_type(run, 'hash')
  local id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local seen, since, beat, stall = unpack(
    redis.call('HMGET', run, 'id', 'since_ms', 'beat_ms', 'stall_ms'))
  since, stall = tonumber(since) or 0, tonumber(stall) or 0
  if seen ~= id then
    since = seen and now or 0
    redis.call('HSET', run, 'id', id, 'since_ms', since)
  end
  local beat_ago = beat and math.abs(now - (tonumber(beat) or 0)) or 0
  -- The clock of a server that took over may be behind: a time in the future is another stall, so
  -- that no grace ends later than a lease from now. (`not`: any program may have written NaN.)
  if not (beat_ago <= lease_ms / 2 and since <= now and stall <= now) then
    stall = now
    since = since <= now and since or 0
    redis.call('HSET', run, 'since_ms', since, 'stall_ms', stall)
  end
  local interrupted = math.max(since, stall)
  return since + lease_ms - now, interrupted + lease_ms - now, interrupted
end
