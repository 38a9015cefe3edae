-- Append events to a request: log, text, record and channels in one step, or nothing at all.
--
-- KEYS  1 meta  2 log  3 lease  4 events channel  5 text  6 body  7 live requests
--       [8 typed channel]
-- ARGV  1 worker  2 epoch  3 number of the first event  4 ttl in s to set ('' = leave it)
--       5 text to append ('' = none)  6 '1' to empty the text first  7 final state ('' = none)
--       8 entries to keep in the log ('' = all)  9 count of events  10.. the events (JSON), then
--       field, value of meta
-- Returns {'ok', n, cancel}: written, by this call or an earlier one whose reply was lost.
--         {'fenced', epoch}: a later claim exists, or the request has ended; stop.
--         {'gap', n}: the log ends at n; send again from n + 1.
--         {'gone'}: the record has expired or was deleted; stop.

-- include of_type.lua

local meta_key, log_key, lease_key, events_channel = unpack(KEYS, 1, 4)
local text_key, body_key, live_key, typed_channel = unpack(KEYS, 5, 8)
local worker, epoch, first, ttl_s, text, empty_text, final_state, keep, count = unpack(ARGV, 1, 9)

local its_epoch, n, cancel, state, its_worker = unpack(
  redis.call('HMGET', meta_key, 'epoch', 'n', 'cancel', 'state', 'worker'))
if not its_epoch then
  return {'gone'}
end
its_epoch, n, epoch = tonumber(its_epoch), tonumber(n), tonumber(epoch)
first, count = tonumber(first), tonumber(count)
local ended = state == 'done' or state == 'failed' or state == 'canceled'
if its_epoch > epoch or (its_epoch == epoch and its_worker ~= worker) then
  return {'fenced', its_epoch}
end
if its_epoch < epoch then
  -- Redis has lost this claim. Another worker may have claimed the request since, with a lower epoch
  -- if Redis's clock went back: then it holds the lease.
  local holder = redis.call('GET', lease_key)
  if holder and holder ~= worker .. ':' .. ARGV[2] then
    return {'fenced', its_epoch}
  end
end
if count > 0 and first + count - 1 <= n then
  return {'ok', n, cancel or ''}
end
if ended or (its_epoch == epoch and state ~= 'running') then
  return {'fenced', its_epoch}
end
if count > 0 and first ~= n + 1 then
  return {'gap', n}
end

-- The log comes first: it refuses an id that is not above its last one, so an error elsewhere can
-- never publish what was not logged.
for i = 1, count do
  redis.call('XADD', log_key, ARGV[2] .. '-' .. (n + i), 'd', ARGV[9 + i])
end
local top = n + count
local fields = {'n', top}
keep = tonumber(keep)
if keep and top > keep * 1.25 then
  -- Trimmed in large steps, and never silently: `base` shows readers where the log begins.
  local base = tonumber(redis.call('HGET', meta_key, 'base') or 1)
  if top - base >= keep * 1.25 then
    redis.call('XTRIM', log_key, 'MAXLEN', '=', keep)
    fields[#fields + 1] = 'base'
    fields[#fields + 1] = top - keep + 1
  end
end
for i = 10 + count, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
if its_epoch < epoch then
  -- Redis was restarted and lost the claim with the end of its log; no worker claimed it since.
  fields[#fields + 1] = 'epoch'
  fields[#fields + 1] = epoch
  fields[#fields + 1] = 'worker'
  fields[#fields + 1] = worker
  fields[#fields + 1] = 'state'
  fields[#fields + 1] = 'running'
end
if final_state ~= '' then
  fields[#fields + 1] = 'state'
  fields[#fields + 1] = final_state
  redis.call('DEL', lease_key)
  of_type(live_key, 'zset')
  redis.call('ZREM', live_key, string.match(meta_key, '{(.-)}'))
end
redis.call('HSET', meta_key, unpack(fields))
if empty_text == '1' then
  redis.call('DEL', text_key)
end
if text ~= '' and redis.call('APPEND', text_key, text) == #text then
  -- Just created: it expires with the record, also if this call renews nothing.
  redis.call('PEXPIRE', text_key, math.max(redis.call('PTTL', meta_key), 1000))
end
if ttl_s ~= '' then
  for _, key in ipairs({meta_key, log_key, text_key, body_key}) do
    redis.call('EXPIRE', key, ttl_s)
  end
end
for i = 1, count do
  redis.call('PUBLISH', events_channel, ARGV[9 + i])
end
if text ~= '' and typed_channel then
  redis.call('PUBLISH', typed_channel, text)
end
return {'ok', top, cancel or ''}
