"""The cost cap of a job: the most a shard can cost is reserved before it is sent."""

import math
from typing import Any, Literal

from penstock.batches.notices import PauseReason
from penstock.store.limit_scripts import reserve_cost
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.limits.prices import bound_usd


def reserve(work: ClaimedShard) -> Literal["ok", "wait"] | dict[str, Any]:
    """Reserve the most that the shard can cost.

    Returns ``ok``, also for a job without a cap; ``wait`` if the actual cost of other shards must
    be known first; or why the job has to be paused.
    """
    cap = work.redis.hget(work.job.keys.money, "cap")
    if cap is None:
        return "ok"
    price = bound_usd(work.shard.size_by_model, live=work.shard.live)
    if price is None:
        models = ", ".join(sorted(work.shard.size_by_model)) or work.shard.model
        return {
            "type": PauseReason.PRICE_UNKNOWN,
            "message": f"the job has a cost cap, and the price of {models} is not known",
        }
    reply = reserve_cost(
        work.job.keys,
        shard=work.shard.number,
        amount=math.ceil(price * 1_000_000) + work.shard.live_calls_cost,
        ttl_s=work.settings.batch_ttl_s,
    ).run(work.redis)
    if reply != "over":
        return reply
    return {
        "type": PauseReason.COST_LIMIT,
        "message": f"shard {work.shard.number} can cost up to {price:.4f} USD, more than is left "
        f"of the job's {int(cap) / 1_000_000:.2f} USD",
    }
