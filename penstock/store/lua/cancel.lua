-- Request that a record be canceled. The field `cancel` is what counts: the worker that holds the
-- record reads it with its next write, or at once because of the message on the control channel. A
-- request that no worker holds ends here.
--
-- KEYS  1 meta  2 log  3 events channel  4 control channel
--       [5 lease  6 live requests  7 text  8 body]
-- ARGV  1 who asks  2 data of the last event (JSON; '' = do not end the request here)
--       3 ttl in s of a request that ends here  4 '1' to leave a request that a worker holds
-- Returns the state found ('running' if 4 left it), or '' if there is no such record (none is
-- created).

-- include now_ms.lua
-- include record_id.lua
-- include next_epoch.lua
-- include of_type.lua
-- include end_unclaimed.lua

local meta_key, log_key, events_channel, control_channel = unpack(KEYS, 1, 4)
local lease_key, live_key, text_key, body_key = unpack(KEYS, 5, 8)
local who, end_event, retention_s, only_waiting = unpack(ARGV)

local state = redis.call('HGET', meta_key, 'state')
if not state then
  return ''
end
if state ~= 'queued' and state ~= 'running' then
  return state
end
local held = state == 'running' or (lease_key and redis.call('EXISTS', lease_key) == 1)
if only_waiting == '1' and held then
  return 'running'
end
local id = record_id(meta_key)
redis.call('HSETNX', meta_key, 'cancel', who)
if end_event ~= '' and not held then
  local names = {meta = meta_key, log = log_key, events = events_channel, live = live_key,
    text = text_key, body = body_key}
  end_unclaimed(names, 'canceled', end_event, retention_s, {})
else
  redis.call('PUBLISH', control_channel, id)
end
return state
