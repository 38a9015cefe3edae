-- Included by the scripts that end a request which no worker holds: log its last event, publish it,
-- and let its keys expire. `fields` are further fields of the record, as a list. Where the record's
-- numbers cannot be read, the event follows the last one of the log. A log whose last entry has the
-- highest id that there is cannot be continued, and is removed.
local function end_unclaimed(names, state, data, retention_s, fields)
  local function sound(number)
    return number and number:match('^%d+$') and #number < 16
  end
  local epoch, n = unpack(redis.call('HMGET', names.meta, 'epoch', 'n'))
  local last = redis.call('XREVRANGE', names.log, '+', '-', 'COUNT', 1)[1]
  local last_epoch, last_n = string.match(last and last[1] or '0-0', '^(%d+)-(%d+)$')
  if not (sound(last_epoch) and sound(last_n)) then
    redis.call('DEL', names.log)
    last_epoch, last_n = '0', '0'
  end
  if not (sound(epoch) and sound(n)) then
    epoch, n = last_epoch, last_n
  end
  n = string.format('%.0f', n + 1)
  epoch = next_epoch(math.max(epoch, last_epoch), now_ms())
  local line = '{"e":' .. epoch .. ',"n":' .. n .. ',"data":' .. data .. '}'
  redis.call('XADD', names.log, epoch .. '-' .. n, 'd', line)
  redis.call('HSET', names.meta, 'state', state, 'epoch', epoch, 'n', n, 'ended_ms', now_ms(),
    unpack(fields))
  redis.call('HDEL', names.meta, 'waits_for', 'wait_until_ms')
  for _, key in ipairs({names.meta, names.log, names.text, names.body}) do
    redis.call('EXPIRE', key, retention_s)
  end
  of_type(names.live, 'zset')
  redis.call('ZREM', names.live, record_id(names.meta))
  redis.call('PUBLISH', names.events, line)
end
