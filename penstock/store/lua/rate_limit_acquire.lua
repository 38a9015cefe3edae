-- May this call be made now? A token bucket per model for all workers, filled by what the API's
-- headers say, in which every request that has to wait gets a turn of its own: when a limit opens
-- again, those that waited come one after the other, not all at once.
--
-- KEYS  1 gate  2 unanswered calls  3 turns
-- ARGV  1 request id  2 calls to allow while the limit is unknown  3 ms after which an
--       unanswered call counts as lost
-- Returns 0 to go on, else the ms to wait.

-- include now_ms.lua

local limit_key, calls_key, turns_key = unpack(KEYS)
local id, first_calls, lost_after_ms = unpack(ARGV)

local now = now_ms()
local gate = redis.call('HMGET', limit_key, 'known', 'tokens', 'stamp_ms', 'interval_us', 'limit',
  'closed_ms')
local known, closed = gate[1] or 'no', tonumber(gate[6] or 0)
redis.call('ZREMRANGEBYSCORE', calls_key, '-inf', now)
-- Whoever did not come for his turn within a minute will not come.
redis.call('ZREMRANGEBYSCORE', turns_key, '-inf', now - 60000)

local function go()
  redis.call('ZADD', calls_key, now + lost_after_ms, id)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 3600000) end
  return 0
end

local function wait(until_ms)
  redis.call('ZADD', turns_key, until_ms, id)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 3600000) end
  return math.max(1, until_ms - now)
end

local turn = tonumber(redis.call('ZSCORE', turns_key, id) or -1)
if turn > now + 20 then
  return turn - now  -- woken too early
end
if closed <= now and turn >= 0 then
  redis.call('ZREM', turns_key, id)
  return go()
end
if known == 'yes' then
  local interval, limit = tonumber(gate[4]), tonumber(gate[5])
  local tokens = tonumber(gate[2]) + (now - tonumber(gate[3])) * 1000 / interval
  tokens = math.min(tokens, limit)
  local until_ms = math.max(closed, now)
  if tokens < 1 or closed > now then
    if turn < 0 then
      tokens = tokens - 1
    end
    -- a little late rather than a little early: clocks differ and headers are rounded
    until_ms = math.ceil(math.max(until_ms, now + 1.05 * (0 - tokens) * interval / 1000))
    if closed > now then
      -- What refused may be another limit than the one that is known.
      until_ms = math.max(until_ms, closed + 50 * redis.call('ZCARD', turns_key))
    end
  else
    tokens = tokens - 1
  end
  redis.call('HSET', limit_key, 'tokens', tokens, 'stamp_ms', now)
  if until_ms > now then
    return wait(until_ms)
  end
  return go()
end
if closed > now then
  -- How fast the limit fills again is not known: one after the other.
  return wait(closed + 50 * redis.call('ZCARD', turns_key))
end
if known == 'no' and redis.call('ZCARD', calls_key) >= tonumber(first_calls) then
  return 100
end
return go()
