-- Included by the scripts that decide when the reaper checks a queued request next: at `at_ms`, or
-- earlier, just after the deadline. The second is for its wake-up, which may be due at the deadline.
local function next_check(meta, at_ms)
  local deadline_ms, attempts = unpack(redis.call('HMGET', meta, 'deadline_ms', 'attempts'))
  deadline_ms = tonumber(deadline_ms)
  if deadline_ms and (tonumber(attempts) or 0) == 0 then
    return math.min(at_ms, deadline_ms + 1000)
  end
  return at_ms
end
