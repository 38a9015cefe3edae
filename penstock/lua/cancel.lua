-- Ask that a record be canceled. The flag is the truth; the worker sees it with its next write.
--
-- KEYS  1 meta
-- ARGV  1 who asks
-- Returns the state it found, or '' when there is no such record (and none is made).

local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return ''
end
if state == 'queued' or state == 'running' then
  redis.call('HSETNX', KEYS[1], 'cancel', ARGV[1])
end
return state
