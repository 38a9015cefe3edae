"""Batches that nobody waits for: late twins of calls that were given up, and strangers."""

import contextlib
import logging

import anthropic
import httpx2

from penstock.batches.notices import Alert
from tasks.api.batches import BatchesApi, ListedBatch, Listing
from tasks.api.client import UnexpectedResponse
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.create import size_locks
from tasks.batches.create.reconcile import CLOCK_SKEW_MS
from tasks.batches.job_reader import find_shard

logger = logging.getLogger(__name__)


def check(work: ClaimedShard, api: BatchesApi, listing: Listing) -> None:
    """See to the batches of the list that belong to no shard. Raises `Fenced`.

    A late twin of a shard that was sent again is paid for twice: an alert, and in a workspace of
    our own it is canceled. One whose shard was not sent again is left to that shard's next step.
    """
    keys = work.settings.keys
    # Before the owners: a call is noted as out until its batch has its owner.
    locks = size_locks.locks_of(work.redis, keys, (batch.requests for batch in listing.batches))
    owners = (
        work.redis.mget(keys.batch_owner(batch.id) for batch in listing.batches) if locks else []
    )
    for batch, owner in zip(listing.batches, owners, strict=True):
        lock = locks[batch.requests]
        if owner or lock.open:
            continue
        lost = [
            m for m, since in lock.abandoned.items() if batch.created_ms >= since - CLOCK_SKEW_MS
        ]
        if lost:
            if all(_was_sent_again(work, member) for member in lost):
                _report_duplicate(work, api, batch, lost)
        elif work.settings.dedicated_workspace and batch.created_ms >= _created_ms(work):
            work.alert(
                Alert.UNKNOWN_BATCH,
                f"{batch.id} with {batch.requests} requests is in the workspace, and no job of "
                "this deployment has made it",
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
        f"{batch.id} {certainty} the batch of a create call that was given up: "
        f"{', '.join(lost)} was sent again",
    )


def _was_sent_again(work: ClaimedShard, member: str) -> bool:
    shard = find_shard(work.redis, work.settings.keys, member)
    return shard is None or bool(shard.batch_id)


def _created_ms(work: ClaimedShard) -> int:
    [created_ms] = work.job.fields("created_ms")
    return int(created_ms or 0)
