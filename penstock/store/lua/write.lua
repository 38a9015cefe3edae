-- Append events to a record: log, text, record and channels in one step, or nothing at all.
--
-- KEYS  1 meta  2 log  3 lease  4 events channel  5 text  6 body  7 live requests
--       [8 typed channel]
-- ARGV  1 worker  2 epoch  3 number of the first event  4 ttl in s to renew ('' = leave it)
--       5 text to append ('' = none)  6 '1' to empty the text first  7 final state ('' = goes on)
--       8 entries to keep in the log ('' = all)  9 count of events  10.. the events (JSON), then
--       field, value of meta
-- Returns {'ok', n, cancel}: written, or written before (the answer to an earlier call was lost).
--         {'fenced', epoch}: a later claim exists, or the record has ended; stop.
--         {'gap', n}: the log ends at n; send again from n + 1.
--         {'gone'}: the record has expired or was deleted; stop.

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'cancel', 'state', 'worker')
if not meta[1] then
  return {'gone'}
end
local epoch, n, mine = tonumber(meta[1]), tonumber(meta[2]), tonumber(ARGV[2])
local first, count = tonumber(ARGV[3]), tonumber(ARGV[9])
local ended = meta[4] == 'done' or meta[4] == 'failed' or meta[4] == 'canceled'
if epoch > mine or (epoch == mine and meta[5] ~= ARGV[1]) then
  return {'fenced', epoch}
end
if count > 0 and first + count - 1 <= n then
  return {'ok', n, meta[3] or ''}
end
if ended or (epoch == mine and meta[4] ~= 'running') then
  return {'fenced', epoch}
end
if count > 0 and first ~= n + 1 then
  return {'gap', n}
end

-- The log comes first: it refuses an id that is not above its top, so a mistake anywhere else
-- can never publish what was not logged.
for i = 1, count do
  redis.call('XADD', KEYS[2], mine .. '-' .. (n + i), 'd', ARGV[9 + i])
end
local fields = {'n', n + count}
local keep = tonumber(ARGV[8])
if keep and n + count > keep * 1.25 then
  -- Trimmed in large steps, and never silently: readers find in `base` where the log begins.
  local base = tonumber(redis.call('HGET', KEYS[1], 'base') or 1)
  if n + count - base >= keep * 1.25 then
    redis.call('XTRIM', KEYS[2], 'MAXLEN', '=', keep)
    fields[#fields + 1] = 'base'
    fields[#fields + 1] = n + count - keep + 1
  end
end
for i = 10 + count, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
if epoch < mine then
  -- Redis was restarted and lost the claim with the tail of its log; nobody claimed it since.
  fields[#fields + 1] = 'epoch'
  fields[#fields + 1] = mine
  fields[#fields + 1] = 'worker'
  fields[#fields + 1] = ARGV[1]
  fields[#fields + 1] = 'state'
  fields[#fields + 1] = 'running'
end
if ARGV[7] ~= '' then
  fields[#fields + 1] = 'state'
  fields[#fields + 1] = ARGV[7]
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[7], string.match(KEYS[1], '{(.-)}'))
end
redis.call('HSET', KEYS[1], unpack(fields))
if ARGV[6] == '1' then
  redis.call('DEL', KEYS[5])
end
if ARGV[5] ~= '' and redis.call('APPEND', KEYS[5], ARGV[5]) == #ARGV[5] then
  -- Made just now: it lives as long as the record, also where this call renews nothing.
  redis.call('PEXPIRE', KEYS[5], math.max(redis.call('PTTL', KEYS[1]), 1000))
end
if ARGV[4] ~= '' then
  for _, i in ipairs({1, 2, 5, 6}) do
    redis.call('EXPIRE', KEYS[i], ARGV[4])
  end
end
for i = 1, count do
  redis.call('PUBLISH', KEYS[4], ARGV[9 + i])
end
if ARGV[5] ~= '' and KEYS[8] then
  redis.call('PUBLISH', KEYS[8], ARGV[5])
end
return {'ok', n + count, meta[3] or ''}
