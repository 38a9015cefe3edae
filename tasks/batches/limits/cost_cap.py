"""The money cap of a job: what a shard can cost at the most is reserved before it is sent."""

import math
from typing import Any

from penstock.store.scripts import script
from tasks.batches.claim import ClaimedShard
from tasks.batches.limits.prices import bound_usd


def reserve(work: ClaimedShard) -> str | dict[str, Any]:
    """Reserve the shard's highest cost: ``ok``, ``wait`` (others have to be settled first) or why
    the job has to be paused. A job without a cap always may."""
    cap = work.redis.hget(work.keys.money, "cap")
    if cap is None:
        return "ok"
    price = bound_usd(work.shard.size_by_model, live=work.shard.live)
    if price is None:
        models = ", ".join(sorted(work.shard.size_by_model)) or work.shard.model
        return {
            "type": "price_unknown",
            "message": f"the job has a money cap, and what {models} costs is not known",
        }
    args = [work.shard.number, math.ceil(price * 1_000_000), work.settings.batch_ttl_s]
    verdict = str(script("cost_reserve")(work.redis, [work.keys.money], args).decode())
    if verdict != "over":
        return verdict
    return {
        "type": "cost_limit",
        "message": f"shard {work.shard.number} can cost up to {price:.4f} USD, more than is left "
        f"of the job's {int(cap) / 1_000_000:.2f} USD",
    }
