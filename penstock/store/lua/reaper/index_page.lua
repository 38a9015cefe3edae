-- Read a page of an index that all records share, and remove the members that cannot be one of ours:
-- they would fill the pages, and the members after them would never be read.
--
-- KEYS  1 index (sorted set)
-- ARGV  1 'id' or 'shard': what its members are  2 '1' for those that are due, '' for all
--       3 members to skip  4 maximum members to return
-- Returns {number removed, beginning of one of them, members...}. At most ten times the maximum is
--         examined; call again if any were removed.

-- include now_ms.lua
-- include of_type.lua

local index = KEYS[1]
local kind, only_due, skip, limit = unpack(ARGV)
skip, limit = tonumber(skip), tonumber(limit)

local hex = '[0-9a-f]'
local uuid = '^' .. hex:rep(8) .. ('%-' .. hex:rep(4)):rep(3) .. '%-' .. hex:rep(12)
local function is_ours(member)
  if kind == 'id' then
    return #member == 36 and member:match(uuid .. '$')
  end
  -- As a number is spelled: otherwise it would be another member than the one that scripts write.
  local number = #member <= 43 and member:match(uuid .. '/(%d+)$')
  return number and (number == '0' or number:sub(1, 1) ~= '0')
end

of_type(index, 'zset')
local found, removed, example = {}, 0, ''
local last = '+inf'
if only_due == '1' then
  last = now_ms()
  -- A time that no script writes (a year ahead) would hide a record from the reaper: it is due.
  for _, member in ipairs(redis.call('ZRANGE', index, '(' .. string.format('%.0f', last + 31536e6),
    '+inf', 'BYSCORE', 'LIMIT', 0, limit)) do
    redis.call('ZADD', index, last, member)
  end
end
for _ = 1, 10 do
  local page = redis.call('ZRANGE', index, '-inf', last, 'BYSCORE', 'LIMIT', skip, limit - #found)
  for _, member in ipairs(page) do
    if is_ours(member) then
      found[#found + 1] = member
      skip = skip + 1
    else
      redis.call('ZREM', index, member)
      removed, example = removed + 1, member:sub(1, 80)
    end
  end
  if #found >= limit or #page == 0 then
    break
  end
end
return {removed, example, unpack(found)}
