"""Reads which create call an ended batch comes from, before a shard adopts it.

Another program may have created many batches of the same size. One that has ended shows in the
first lines of its results whether it is the shard's: that is one call for each, while to adopt it
costs a poll, a download and a new search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anthropic
import httpx2

from penstock.batches.shard import Shard
from tasks.api.batches import BatchesApi, ListedBatch
from tasks.api.client import UnexpectedResponse
from tasks.batches.result_lines import blocks, read_line

#: Maximum batches that are read in one step.
MAX_READ: Final = 50


@dataclass(frozen=True, slots=True)
class SortedOut:
    """What the first lines of ended batches show."""

    candidates: tuple[ListedBatch, ...]  #: those that may be the shard's; if one is, only that one
    foreign: tuple[str, ...] = ()  #: ids of batches of other calls
    unread: bool = False  #: whether more batches have ended than could be read at once


def sort_out(
    shard: Shard, batches: Sequence[ListedBatch], api: BatchesApi, *, timeout: httpx2.Timeout
) -> SortedOut:
    """Sort out the batches that are certainly not the shard's. Raises `anthropic.APIError`."""
    ours = {shard.nonce, *shard.abandoned_nonces}
    left: list[ListedBatch] = []
    foreign: list[str] = []
    ended = [batch for batch in batches if batch.status == "ended"]
    readable = {batch.id for batch in ended[:MAX_READ]}
    for batch in batches:
        nonce = _nonce_of(batch, api, timeout, ours) if batch.id in readable else ""
        if nonce in ours:
            return SortedOut((batch,), tuple(foreign))
        if nonce:
            foreign.append(batch.id)
        else:
            left.append(batch)
    return SortedOut(tuple(left), tuple(foreign), unread=len(ended) > MAX_READ)


def _nonce_of(batch: ListedBatch, api: BatchesApi, timeout: httpx2.Timeout, ours: set[str]) -> str:
    """Return how the custom_ids of a batch begin; empty: its results do not show it.

    One of ``ours`` if any of the first lines has it: a gateway may have added lines of its own.
    """
    try:
        with api.results(batch.id, timeout=timeout) as pieces:
            block = next(blocks(pieces), b"")
    except (anthropic.NotFoundError, httpx2.HTTPError, UnexpectedResponse):
        return ""  # the steps of a shard that adopts it find out why
    lines = [line for raw in block.splitlines() if (line := read_line(raw))]
    nonces = [line.custom_id.partition("-")[0] for line in lines]
    return next((nonce for nonce in nonces if nonce in ours), nonces[0] if nonces else "")
