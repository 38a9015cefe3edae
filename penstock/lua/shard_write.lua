-- Write a claimed shard, and log and publish what happened to it, in one step or not at all.
-- The events of a job are numbered here, since its shards are worked on by several processes.
--
-- KEYS  1 meta  2 shards  3 log  4 shard lease  5 events channel  6 spool
-- ARGV  1 shard  2 epoch  3 the shard's record ('' = unchanged)  4 event's data ('' = none)
--       5 ttl in s  6 '1' to give up the claim  7 final state of the job ('' = goes on)
--       8.. field, value of meta
-- Returns {'ok', cancel} or {'fenced'}: claimed by somebody else, or the job has ended.

local meta = redis.call('HMGET', KEYS[1], 'epoch:' .. ARGV[1], 'cancel', 'state')
if meta[1] ~= ARGV[2] or meta[3] ~= 'running' then
  return {'fenced'}
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
end
for i = 8, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
if ARGV[4] ~= '' then
  local n = redis.call('HINCRBY', KEYS[1], 'n', 1)
  local line = '{"e":0,"n":' .. n .. ',"data":' .. ARGV[4] .. '}'
  redis.call('XADD', KEYS[3], '0-' .. n, 'd', line)
  redis.call('PUBLISH', KEYS[5], line)
end
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[1], 'state', ARGV[7])
end
if ARGV[6] == '1' then
  redis.call('DEL', KEYS[4])
end
for _, i in ipairs({1, 2, 3, 6}) do
  if KEYS[i] then
    redis.call('EXPIRE', KEYS[i], ARGV[5])
  end
end
return {'ok', meta[2] or ''}
