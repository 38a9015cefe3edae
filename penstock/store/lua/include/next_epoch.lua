-- Included by the scripts that begin an epoch of a request. It is Redis's clock in ms, or one more
-- than the last. So it is also not that of a claim which Redis has lost, whose events readers may
-- have taken: a cursor never fits events that others have replaced.
local function next_epoch(last, now)
  return string.format('%.0f', math.max(now, tonumber(last) + 1))
end
