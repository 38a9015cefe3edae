-- Count a shard that is added to a job by splitting another one.
--
-- KEYS  1 meta
-- Returns the number of shards added like this, or 0 if the record has expired: it is not made again.

if redis.call('HEXISTS', KEYS[1], 'state') == 0 then
  return 0
end
return redis.call('HINCRBY', KEYS[1], 'splits', 1)
