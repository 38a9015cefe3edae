-- Included by the scripts that use a key which every record shares. A key of another type would make
-- each of them fail, for every record: remove it, and say so in Redis's log.
-- Returns whether it was removed.
local function of_type(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then
    return false
  end
  redis.call('DEL', key)
  redis.log(redis.LOG_WARNING, key .. ' was removed: it was not a ' .. kind .. ' but a ' .. found)
  return true
end
