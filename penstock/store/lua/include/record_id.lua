-- Included by the scripts that need a record's id: the part of a key between braces.
local function record_id(key)
  return string.match(key, '{(.-)}')
end
