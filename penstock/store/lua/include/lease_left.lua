-- Included by the scripts that look whether a worker holds a record. A key that is no lease of a
-- worker counts as none: it would keep the record for ever.
-- Returns the ms until the lease expires; 0 or less: no worker holds the record.
local function lease_left(lease)
  local left = redis.call('PTTL', lease)
  if left > 86400000 or (left > 0 and redis.call('TYPE', lease).ok ~= 'string') then
    return 0
  end
  return left
end
