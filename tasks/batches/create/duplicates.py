"""Reports batches that belong to no shard: duplicate and unknown batches."""

import contextlib

import anthropic
import httpx2

from penstock.batches.notices import Alert
from tasks.api.batches import BatchesApi, ListedBatch, Listing
from tasks.api.client import UnexpectedResponse
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create import size_locks
from tasks.batches.create.reconcile import CLOCK_SKEW_MS
from tasks.batches.job_reader import find_shard


def check(work: ClaimedShard, api: BatchesApi, listing: Listing) -> None:
    """Check the batches of the list that belong to no shard. Raises `Fenced`.

    The batch of an abandoned call can still appear, if the API created it, or listed it, later than
    the settings allow for. If the shard was sent again before, the late batch is a duplicate, and
    its requests are paid for twice: it raises an alert, and in a dedicated workspace it is
    canceled. If the shard was not sent again, its next create step adopts the late batch.

    A batch that fits no call of this deployment raises an alert in a dedicated workspace, unless it
    is older than the job.
    """
    keys = work.settings.keys
    # The locks before the owners: a call holds its lock until its batch has an owner, so a batch
    # without either is not that of an open call.
    locks = size_locks.locks_of(work.redis, keys, (batch.requests for batch in listing.batches))
    owners = (
        work.redis.mget(keys.batch_owner(batch.id) for batch in listing.batches) if locks else []
    )
    for batch, owner in zip(listing.batches, owners, strict=True):
        lock = locks[batch.requests]
        if owner or lock.open:
            continue
        lost = {
            member: find_shard(work.redis, keys, member)
            for member, since in lock.abandoned.items()
            if batch.created_ms >= since - CLOCK_SKEW_MS
        }
        # A batch that the shard has rejected is another program's.
        lost = {m: s for m, s in lost.items() if s is None or batch.id not in s.rejected}
        if lost:
            if all(shard is None or shard.batch_id for shard in lost.values()):
                _report_duplicate(work, api, batch, list(lost))
        elif work.settings.dedicated_workspace and batch.created_ms >= _created_ms(work):
            work.alert(
                Alert.UNKNOWN_BATCH,
                f"{batch.id} with {batch.requests} requests is in the workspace, and no job of "
                "this deployment created it",
            )


def _report_duplicate(
    work: ClaimedShard, api: BatchesApi, batch: ListedBatch, lost: list[str]
) -> None:
    dedicated = work.settings.dedicated_workspace
    if dedicated and batch.status == "in_progress":
        with contextlib.suppress(anthropic.APIError, httpx2.HTTPError, UnexpectedResponse):
            api.cancel(batch.id)
    certainty = "is" if dedicated else "may be"
    work.alert(
        Alert.DUPLICATE_BATCH,
        f"{batch.id} {certainty} a duplicate: the late batch of an abandoned create call, "
        f"after which {', '.join(lost)} was sent again",
    )


def _created_ms(work: ClaimedShard) -> int:
    [created_ms] = work.job.fields("created_ms")
    return int(created_ms or 0)
