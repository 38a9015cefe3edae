-- Included by the scripts that end a request which no worker holds: log its last event, publish it,
-- and let its keys expire. `fields` are further fields of the record, as a list.
local function end_unclaimed(names, state, data, retention_s, fields)
  local epoch, n = unpack(redis.call('HMGET', names.meta, 'epoch', 'n'))
  n = n + 1
  epoch = next_epoch(epoch, now_ms())
  local line = '{"e":' .. epoch .. ',"n":' .. n .. ',"data":' .. data .. '}'
  redis.call('XADD', names.log, epoch .. '-' .. n, 'd', line)
  redis.call('HSET', names.meta, 'state', state, 'epoch', epoch, 'n', n,
    'ended_ms', now_ms(), unpack(fields))
  redis.call('HDEL', names.meta, 'waits_for', 'wait_until_ms')
  for _, key in ipairs({names.meta, names.log, names.text, names.body}) do
    redis.call('EXPIRE', key, retention_s)
  end
  redis.call('ZREM', names.live, record_id(names.meta))
  redis.call('PUBLISH', names.events, line)
end
