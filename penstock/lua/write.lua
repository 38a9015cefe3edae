-- Append events to a record: log, text, record and channels in one step, or nothing at all.
--
-- KEYS  1 meta  2 log  3 lease  4 events channel  5 text  6 body  [7 typed channel]
-- ARGV  1 epoch  2 number of the first event  3 ttl in s to renew ('' = leave it)
--       4 text to append ('' = none)  5 final state ('' = goes on)  6 count of events
--       7.. the events (JSON), then field, value of meta
-- Returns {'ok', n, cancel}: written, or written before (the answer to an earlier call was lost).
--         {'fenced', epoch}: a later claim exists, or the record has ended; stop.
--         {'gap', n}: the log ends at n; send again from n + 1.
--         {'gone'}: the record has expired or was deleted; stop.

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'cancel', 'state')
if not meta[1] then
  return {'gone'}
end
local epoch, n = tonumber(meta[1]), tonumber(meta[2])
local first, count = tonumber(ARGV[2]), tonumber(ARGV[6])
if epoch ~= tonumber(ARGV[1]) then
  return {'fenced', epoch}
end
if count > 0 and first + count - 1 <= n then
  return {'ok', n, meta[3] or ''}
end
if meta[4] == 'done' or meta[4] == 'failed' or meta[4] == 'canceled' then
  return {'fenced', epoch}
end
if count > 0 and first ~= n + 1 then
  return {'gap', n}
end

-- The log comes first: it refuses an id that is not above its top, so a mistake anywhere else
-- can never publish what was not logged.
for i = 1, count do
  redis.call('XADD', KEYS[2], epoch .. '-' .. (n + i), 'd', ARGV[6 + i])
end
local fields = {'n', n + count}
for i = 7 + count, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
if ARGV[5] ~= '' then
  fields[#fields + 1] = 'state'
  fields[#fields + 1] = ARGV[5]
  redis.call('DEL', KEYS[3])
end
redis.call('HSET', KEYS[1], unpack(fields))
if ARGV[4] ~= '' and redis.call('APPEND', KEYS[5], ARGV[4]) == #ARGV[4] then
  -- Made just now: it lives as long as the record, also where this call renews nothing.
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then
    redis.call('PEXPIRE', KEYS[5], left)
  end
end
if ARGV[3] ~= '' then
  for _, i in ipairs({1, 2, 5, 6}) do
    redis.call('EXPIRE', KEYS[i], ARGV[3])
  end
end
for i = 1, count do
  redis.call('PUBLISH', KEYS[4], ARGV[6 + i])
end
if ARGV[4] ~= '' and KEYS[7] then
  redis.call('PUBLISH', KEYS[7], ARGV[4])
end
return {'ok', n + count, meta[3] or ''}
