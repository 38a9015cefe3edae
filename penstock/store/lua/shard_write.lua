-- Write a claimed shard, and log and publish what happened to it, in one step or not at all.
-- The events of a job are numbered here, since its shards are worked on by several processes.
--
-- KEYS  1 meta  2 shards  3 log  4 shard lease  5 events channel  6 claims  7 live shards  8 money
-- ARGV  1 shard  2 worker  3 epoch  4 ttl in s
--       5 what becomes of the claim: 'hold' (keep it), 'park' (give it up; nothing happens to the
--         shard until the job is resumed), 'rest' (the same, but it is looked at once a day), 'done'
--         (give it up; there is nothing left to do for the shard), or give it up and be due again
--         in so many ms. No later write or renewal of this claim is taken then
--       6 ms after which the reaper sends a wake-up that did not come by itself
--       7 event's data ('' = none)  8 final state of the job ('' = goes on)
--       9 why the job is to be paused (JSON; '' = it is not)
--       10 added to the number of shards left  11 millionths of a dollar that the shard's
--          reservation has come to ('' = leave it, 'all' = what was reserved)
--       12 '1' if the step has taken account of the job's being canceled
--       13 count of shard records, then so many pairs of number, record, then field, value of meta
-- Returns {'ok', cancel, paused, ms until the shard is due (-1: parked)} or {'fenced'}: given up,
--         claimed by somebody else, or the job has ended.

-- include now_ms.lua
-- include record_id.lua
-- include job_event.lua
-- include restorable.lua

local meta_key, shards_key, log_key, lease_key = unpack(KEYS, 1, 4)
local events_channel, claims_key, live_key, money_key = unpack(KEYS, 5, 8)
local number, worker, epoch, ttl_s, becomes, wakeup_retry_ms = unpack(ARGV, 1, 6)
local event, final_state, pause, left, spent, saw_cancel = unpack(ARGV, 7, 12)
local records, first_record = tonumber(ARGV[13]), 14

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
  -- Redis lost the claim in a restart, and nobody has made another since.
  redis.call('HSET', claims_key, number, mine)
end

local id = record_id(meta_key)
local member = id .. '/' .. number
local now = now_ms()
local first_field = first_record + 2 * records
for i = first_record, first_field - 1, 2 do
  if redis.call('HSET', shards_key, ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', live_key, now + wakeup_retry_ms, id .. '/' .. ARGV[i])  -- a new one
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
  -- A renewal that is under way must not bring the lease back.
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
      -- Nothing of a job that is to be canceled is parked: what failed is tried again in a while.
      wait_ms = parked and retry_ms or wait_ms
    elseif parked or cancel ~= '' then
      -- The pause was lifted, or the cancel came, while the step ran: it goes on at once.
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
