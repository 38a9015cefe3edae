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

-- include restorable.lua

local meta = redis.call('HMGET', KEYS[1], 'state', 'cancel', 'paused')
if meta[1] ~= 'queued' and meta[1] ~= 'running' then
  return {'fenced'}
end
local stored = redis.call('HGET', KEYS[6], ARGV[1])
if stored ~= ARGV[3] .. ' ' .. ARGV[2] then
  if stored and tonumber(string.match(stored, '^%d+')) >= tonumber(ARGV[3]) then
    return {'fenced'}
  end
  local holder = redis.call('GET', KEYS[4])
  if holder and holder ~= ARGV[2] .. ':' .. ARGV[3] or not restorable(KEYS[2], ARGV[1]) then
    return {'fenced'}
  end
  -- Redis lost the claim in a restart, and nobody has made another since.
  redis.call('HSET', KEYS[6], ARGV[1], ARGV[3] .. ' ' .. ARGV[2])
end

local id = string.match(KEYS[1], '{(.-)}')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local records = tonumber(ARGV[13])
for i = 14, 13 + 2 * records, 2 do
  if redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', KEYS[7], now + ARGV[6], id .. '/' .. ARGV[i])  -- a new one
  end
end
for i = 14 + 2 * records, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
if ARGV[10] ~= '0' then
  redis.call('HINCRBY', KEYS[1], 'left', ARGV[10])
end
local reserved = ARGV[11] ~= '' and redis.call('HGET', KEYS[8], 'reserved:' .. ARGV[1])
if reserved then
  redis.call('HDEL', KEYS[8], 'reserved:' .. ARGV[1])
  redis.call('HINCRBY', KEYS[8], 'spent', ARGV[11] == 'all' and reserved or ARGV[11])
end
local cancel = meta[2] or ''
if ARGV[9] ~= '' and cancel == '' then
  redis.call('HSET', KEYS[1], 'paused', ARGV[9])
  meta[3] = ARGV[9]
end
if ARGV[7] ~= '' then
  local n = redis.call('HINCRBY', KEYS[1], 'n', 1)
  local line = '{"e":0,"n":' .. n .. ',"data":' .. ARGV[7] .. '}'
  redis.call('XADD', KEYS[3], '0-' .. n, 'd', line)
  redis.call('PUBLISH', KEYS[5], line)
end
local member = id .. '/' .. ARGV[1]
local wait = tonumber(ARGV[5]) or 0
local parked = ARGV[5] == 'park' or ARGV[5] == 'rest'
if ARGV[8] ~= '' or ARGV[5] ~= 'hold' then
  -- A renewal that is under way must not bring the lease back.
  redis.call('HSET', KEYS[6], ARGV[1], ARGV[3] .. ' ')
end
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[1], 'state', ARGV[8], 'ended_ms', now)
  redis.call('HDEL', KEYS[1], 'paused')
  redis.call('DEL', KEYS[4])
  redis.call('ZREM', KEYS[7], member)
elseif ARGV[5] ~= 'hold' then
  redis.call('DEL', KEYS[4])
  if ARGV[5] == 'done' then
    redis.call('ZREM', KEYS[7], member)
  elseif parked and cancel == '' and (meta[3] or '') ~= '' then
    if ARGV[5] == 'park' then
      redis.call('ZREM', KEYS[7], member)
    else
      redis.call('ZADD', KEYS[7], now + 86400000, member)
    end
    wait = -1
  else
    local patience = tonumber(ARGV[6])
    if cancel ~= '' and ARGV[12] == '1' then
      -- Nothing of a job that is to be canceled is parked: what failed is tried again in a while.
      wait = parked and patience or wait
    elseif parked or cancel ~= '' then
      -- The pause was lifted, or the cancel came, while the step ran: it goes on at once.
      wait, patience = 0, 0
    end
    if wait > 0 then
      redis.call('HSET', KEYS[6], ARGV[1] .. ':due', now + wait)
    end
    redis.call('ZADD', KEYS[7], now + wait + patience, member)
  end
end
for _, i in ipairs({1, 2, 3, 6, 8}) do
  redis.call('EXPIRE', KEYS[i], ARGV[4])
end
return {'ok', cancel, meta[3] or '', wait}
