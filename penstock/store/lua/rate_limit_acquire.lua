-- Decide whether a request may be sent to the API now. A token bucket for each lane, shared by all
-- workers and filled by what the API's headers report. A request that has to wait gets a turn: when
-- a limit opens again, waiting requests are sent one after the other, not all at once. A request
-- whose turn is further ahead than the maximum wait asks again then; if the limit has grown since,
-- it is sent without waiting for its turn.
--
-- KEYS  1 rate limit  2 unanswered calls  3 turns
-- ARGV  1 request id  2 calls to allow while the limit is unknown  3 ms after which an unanswered
--       call counts as lost  4 maximum ms to wait
-- Returns 0 if the request may be sent, else the ms to wait.

-- include now_ms.lua
-- include of_type.lua

local limit_key, calls_key, turns_key = unpack(KEYS)
local id, first_calls, lost_after_ms = unpack(ARGV, 1, 3)
local max_wait_ms = tonumber(ARGV[4])

of_type(limit_key, 'hash')
of_type(calls_key, 'zset')
of_type(turns_key, 'zset')
local now = now_ms()
local known, tokens, stamp_ms, interval, limit, closed = unpack(redis.call('HMGET', limit_key,
  'known', 'tokens', 'stamp_ms', 'interval_us', 'limit', 'closed_ms'))
known, closed = known or 'no', tonumber(closed) or 0
if closed > now + max_wait_ms then  -- written by an earlier version
  closed = now + max_wait_ms
  redis.call('HSET', limit_key, 'closed_ms', closed)
end
tokens, stamp_ms, interval, limit = tonumber(tokens), tonumber(stamp_ms), tonumber(interval),
  tonumber(limit)
if known == 'yes' and not (tokens and stamp_ms and interval and limit and interval > 0) then
  redis.call('DEL', limit_key)  -- what another program wrote is no limit
  known, closed = 'no', 0
end
if known == 'yes' then
  interval = math.min(interval, max_wait_ms * 1000)
  tokens = math.min(tokens + (now - stamp_ms) * 1000 / interval, limit)
end
redis.call('ZREMRANGEBYSCORE', calls_key, '-inf', now)
-- A request that missed its turn by a minute will not use it.
redis.call('ZREMRANGEBYSCORE', turns_key, '-inf', now - 60000)

local function send()
  redis.call('ZADD', calls_key, now + lost_after_ms, id)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 3600000) end
  return 0
end

local function wait(until_ms)
  redis.call('ZADD', turns_key, until_ms, id)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 3600000) end
  return math.min(max_wait_ms, math.max(1, until_ms - now))
end

local turn = tonumber(redis.call('ZSCORE', turns_key, id) or -1)
-- The tokens of all turns are taken already: if some are left, each turn could be now.
local could_be_sent = known == 'yes' and tokens >= 0 and closed <= now
if turn > now + 20 and not could_be_sent then
  return math.min(max_wait_ms, turn - now)  -- it was woken too early
end
if closed <= now and turn >= 0 then
  redis.call('ZREM', turns_key, id)
  return send()
end
if known == 'yes' then
  local until_ms = math.max(closed, now)
  if tokens < 1 or closed > now then
    if turn < 0 then
      tokens = tokens - 1
    end
    -- A little late rather than a little early: clocks differ, and headers are rounded.
    until_ms = math.ceil(math.max(until_ms, now + 1.05 * (0 - tokens) * interval / 1000))
    if closed > now then
      -- The limit that refused a call may not be the one that is known.
      until_ms = math.max(until_ms, closed + 50 * redis.call('ZCARD', turns_key))
    end
  else
    tokens = tokens - 1
  end
  redis.call('HSET', limit_key, 'tokens', tokens, 'stamp_ms', now)
  if until_ms > now then
    return wait(until_ms)
  end
  return send()
end
if closed > now then
  -- How fast the limit fills is not known: one after the other.
  return wait(closed + 50 * redis.call('ZCARD', turns_key))
end
if known == 'no' and redis.call('ZCARD', calls_key) >= tonumber(first_calls) then
  return 100
end
return send()
