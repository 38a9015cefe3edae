-- Included by the scripts that put a record into a sorted set: the id between the braces of a key.
local function record_id(key)
  return string.match(key, '{(.-)}')
end
