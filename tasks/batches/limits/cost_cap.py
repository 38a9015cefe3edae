"""The money cap of a job: what a shard can cost at the most is reserved before it is sent."""

import math
from typing import Any

from penstock.batches.notices import PauseReason
from penstock.store.limit_scripts import reserve_cost
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
            "type": PauseReason.PRICE_UNKNOWN,
            "message": f"the job has a money cap, and what {models} costs is not known",
        }
    verdict = reserve_cost(
        work.keys,
        shard=work.shard.number,
        amount=math.ceil(price * 1_000_000),
        ttl_s=work.settings.batch_ttl_s,
    ).run(work.redis)
    if verdict != "over":
        return verdict
    return {
        "type": PauseReason.COST_LIMIT,
        "message": f"shard {work.shard.number} can cost up to {price:.4f} USD, more than is left "
        f"of the job's {int(cap) / 1_000_000:.2f} USD",
    }
