-- Included by the scripts that restore a claim which Redis lost in a restart.
--
-- It cannot be restored if the record shows by now that a create call was sent to its last byte: an
-- older claim, which Redis still had, has sent it, and the next worker has to look for the batch.
local function restorable(shards, number)
  local record = redis.call('HGET', shards, number) or ''
  return not string.find(record, '"state":"sending"', 1, true)
    or string.find(record, '"sent_ms":0,', 1, true) ~= nil
end
