-- Change which job sends the failed requests of an ended job again.
--
-- KEYS  1 meta of the ended job
-- ARGV  1 the job that has them now; empty: none  2 the job that gets them; empty: none
-- Returns the job that has them after the call, empty for none; nil without a record of the ended
-- job. They are given only if argument 1 is right, so one of several takers gets them.

local meta_key, before, after = KEYS[1], ARGV[1], ARGV[2]

if redis.call('HEXISTS', meta_key, 'state') == 0 then
  return false
end
local current = redis.call('HGET', meta_key, 'retried_by') or ''
if current ~= before then
  return current
end
if after == '' then
  redis.call('HDEL', meta_key, 'retried_by')
else
  redis.call('HSET', meta_key, 'retried_by', after)
end
return after
