-- Report that a worker could write, acquire the reaper's key if it is free, and remove shared keys
-- of another type, which would stop every worker.
--
-- KEYS  1 reaper  2 run  3.. shared keys
-- ARGV  1 worker  2 lease in ms  3 '1' if Redis has refused to do this since it was last done
--       4.. types of the shared keys
-- Returns {1 if this worker is the reaper, removed keys..}.

-- include now_ms.lua
-- include of_type.lua
-- include grace.lua

local reaper_key, run_key = unpack(KEYS)
local worker, lease_ms, refused = unpack(ARGV)

local now = now_ms()
grace(run_key, now, lease_ms)
-- The first write, since a Redis that is full refuses only that one.
redis.call('HSET', run_key, 'beat_ms', now)
if refused == '1' then
  redis.call('HSET', run_key, 'stall_ms', now)
end
local found = {}
for i = 3, #KEYS do
  if of_type(KEYS[i], ARGV[i + 1]) then
    found[#found + 1] = KEYS[i]
  end
end
of_type(reaper_key, 'string')
local left = redis.call('PTTL', reaper_key)
local is_free = left < 0 or left > 86400000
if not is_free and redis.call('GET', reaper_key) ~= worker then
  return {0, unpack(found)}
end
redis.call('SET', reaper_key, worker, 'PX', lease_ms)
return {1, unpack(found)}
