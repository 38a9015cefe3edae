-- Included by the scripts that take a record which any program may have overwritten. `kinds`: key →
-- its type. Returns the first key of another type and what is wrong with it; nil: there is none.
local function wrong_type(kinds)
  for key, kind in pairs(kinds) do
    local found = redis.call('TYPE', key).ok
    if found ~= kind and found ~= 'none' then
      return key, 'is a ' .. found .. ', not a ' .. kind
    end
  end
end
