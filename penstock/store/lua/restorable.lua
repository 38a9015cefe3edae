-- Included by the scripts that take a claim again which Redis forgot in a restart.
--
-- Not when the record says by now that the last bytes of a create call are on their way: an older
-- claim, which Redis still knew, has sent them, and whoever comes next has to look for the batch.
local function restorable(shards, number)
  local record = redis.call('HGET', shards, number) or ''
  return not string.find(record, '"state":"sending"', 1, true)
    or string.find(record, '"sent_ms":0,', 1, true) ~= nil
end
