-- Write a claimed shard, and log and publish the event of it, in one step or not at all. The events
-- of a job are numbered here, since several processes work on its shards.
--
-- KEYS  1 meta  2 shards  3 log  4 shard lease  5 events channel  6 claims  7 live shards  8 money
-- ARGV  1 shard  2 worker  3 epoch  4 ttl in s
--       5 what becomes of the claim: 'hold' (keep it), 'park' (give it up; the shard waits until
--         the job is resumed), 'rest' (the same, but the reaper checks it daily), 'done' (give it
--         up; the shard needs nothing more), or a number: give it up, and be due again in that many
--         ms. Once it is given up, no later write or renewal of this claim is accepted
--       6 ms after which the reaper sends a wake-up that did not arrive
--       7 event's data ('' = none)  8 final state of the job ('' = it continues)
--       9 why to pause the job (JSON; '' = do not pause it)
--       10 added to the number of shards left  11 millionths of a dollar that the shard's
--          reservation is settled at ('' = leave it, 'all' = what was reserved)
--       12 '1' if the step knew that the job is to be canceled
--       13 other shards that the worker has claimed and whose records are written as well: their
--         numbers and epochs, separated by spaces
--       14 count of shard records, then for each its number and JSON, then field, value of meta
-- Returns {'ok', cancel, paused, ms until the shard is due (-1: parked)} or {'fenced'}: given up,
--         claimed by another worker, or the job has ended; one of the other shards too.

-- include now_ms.lua
-- include record_id.lua
-- include of_type.lua
-- include job_event.lua
-- include restorable.lua

local meta_key, shards_key, log_key, lease_key = unpack(KEYS, 1, 4)
local events_channel, claims_key, live_key, money_key = unpack(KEYS, 5, 8)
local number, worker, epoch, ttl_s, becomes, wakeup_retry_ms = unpack(ARGV, 1, 6)
local event, final_state, pause, left, spent, saw_cancel = unpack(ARGV, 7, 12)
local others, records, first_record = ARGV[13], tonumber(ARGV[14]), 15

local state, cancel, paused = unpack(redis.call('HMGET', meta_key, 'state', 'cancel', 'paused'))
if state ~= 'queued' and state ~= 'running' then
  return {'fenced'}
end
local mine = epoch .. ' ' .. worker
local last_claim = redis.call('HGET', claims_key, number)
if last_claim ~= mine then
  if last_claim and tonumber(string.match(last_claim, '^%d+')) >= tonumber(epoch) then
    return {'fenced'}
  end
  local holder = redis.call('GET', lease_key)
  if holder and holder ~= worker .. ':' .. epoch or not restorable(shards_key, number) then
    return {'fenced'}
  end
  -- Redis lost the claim in a restart, and no other worker has claimed the shard since.
  redis.call('HSET', claims_key, number, mine)
end

for other, other_epoch in string.gmatch(others, '(%d+) (%d+)') do
  if redis.call('HGET', claims_key, other) ~= other_epoch .. ' ' .. worker then
    return {'fenced'}
  end
end

of_type(live_key, 'zset')
local id = record_id(meta_key)
local member = id .. '/' .. number
local now = now_ms()
local first_field = first_record + 2 * records
for i = first_record, first_field - 1, 2 do
  if redis.call('HSET', shards_key, ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', live_key, now + wakeup_retry_ms, id .. '/' .. ARGV[i])  -- a new shard
  end
end
for i = first_field, #ARGV, 2 do
  redis.call('HSET', meta_key, ARGV[i], ARGV[i + 1])
end
if left ~= '0' then
  redis.call('HINCRBY', meta_key, 'left', left)
end
local reserved = spent ~= '' and redis.call('HGET', money_key, 'reserved:' .. number)
if reserved then
  redis.call('HDEL', money_key, 'reserved:' .. number)
  redis.call('HINCRBY', money_key, 'spent', spent == 'all' and reserved or spent)
end
cancel, paused = cancel or '', paused or ''
if pause ~= '' and cancel == '' then
  redis.call('HSET', meta_key, 'paused', pause)
  paused = pause
end
if event ~= '' then
  job_event(meta_key, log_key, events_channel, event)
end
local wait_ms = tonumber(becomes) or 0
local parked = becomes == 'park' or becomes == 'rest'
if final_state ~= '' or becomes ~= 'hold' then
  -- A concurrent renewal must not restore the lease.
  redis.call('HSET', claims_key, number, epoch .. ' ')
end
if final_state ~= '' then
  redis.call('HSET', meta_key, 'state', final_state, 'ended_ms', now)
  redis.call('HDEL', meta_key, 'paused')
  redis.call('DEL', lease_key)
  redis.call('ZREM', live_key, member)
elseif becomes ~= 'hold' then
  redis.call('DEL', lease_key)
  if becomes == 'done' then
    redis.call('ZREM', live_key, member)
  elseif parked and cancel == '' and paused ~= '' then
    if becomes == 'park' then
      redis.call('ZREM', live_key, member)
    else
      redis.call('ZADD', live_key, now + 86400000, member)
    end
    wait_ms = -1
  else
    local retry_ms = tonumber(wakeup_retry_ms)
    if cancel ~= '' and saw_cancel == '1' then
      -- A shard of a job that is to be canceled is not parked: what failed is retried later.
      wait_ms = parked and retry_ms or wait_ms
    elseif parked or cancel ~= '' then
      -- The job was resumed or canceled while the step ran: the shard is due at once.
      wait_ms, retry_ms = 0, 0
    end
    if wait_ms > 0 then
      redis.call('HSET', claims_key, number .. ':due', now + wait_ms)
    end
    redis.call('ZADD', live_key, now + wait_ms + retry_ms, member)
  end
end
for _, key in ipairs({meta_key, shards_key, log_key, claims_key, money_key}) do
  redis.call('EXPIRE', key, ttl_s)
end
return {'ok', cancel, paused, wait_ms}
