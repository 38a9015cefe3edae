"""What became of a create call whose answer never came; pure.

The API has no idempotency key, and its list shows of a batch only when it was made and how many
requests it has. So a call is told by its size, which no other open call of ours has, and by its
time; whether a batch is really ours shows in its results. To take a batch for ours costs nothing,
to send again may cost a batch: the first is done early, the second late and only when the list
has had nothing that fits, twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from penstock.batches.shard import Shard, ShardState
from tasks.api.batches import ListedBatch

#: A batch may be dated this much before the watermark of its call: the API has many clocks.
CLOCK_SKEW_MS: Final = 60_000

#: Seconds until the first look for the batch of a lost answer; later looks come more slowly.
FIRST_SEARCH_S: Final = 5.0

#: Answers to a create call that say for certain that no batch was made.
NO_BATCH_STATUSES: Final = frozenset({400, 401, 402, 403, 404, 413, 422, 429})


class Owner(Enum):
    """Whose a listed batch is."""

    NONE = 0
    THIS_SHARD = 1  #: this shard's
    OTHER_SHARD = 2  #: another shard's
    UNCONFIRMED = 3  #: another shard took it for its own, and may have to give it back


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at the API's list."""

    workspace: str  #: whose list it is
    batches: Sequence[ListedBatch]  #: all since well before the call's watermark
    owners: Mapping[str, Owner]  #: of those that fit
    now_ms: int  #: by the clock that the record's times are of


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a call's fate stays open."""

    upload_timeout_ms: int  #: after which a call whose worker died is over
    lost_create_wait_ms: int  #: in which the API may still make a batch of a call that is over
    list_consistency_ms: int  #: after which a batch is in the list


@dataclass(frozen=True, slots=True)
class Adopt:
    """These may be the call's batch, likeliest first."""

    batches: tuple[ListedBatch, ...]


@dataclass(frozen=True, slots=True)
class SearchLater:
    """It is too early to tell. ``shard`` is the record to keep."""

    shard: Shard
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """The call made no batch. ``shard`` is the record to keep: it is planned again."""

    shard: Shard


@dataclass(frozen=True, slots=True)
class WrongWorkspace:
    """The list is of another account than the call was made for: it says nothing."""


Decision: TypeAlias = Adopt | SearchLater | Abandon | WrongWorkspace


def decide(shard: Shard, observed: Observation, rules: Rules) -> Decision:
    """What to do about a call of which only the record is known."""
    if observed.workspace != shard.workspace:
        return WrongWorkspace()
    possible = candidates(shard, observed.batches)
    available = adoptable(possible, observed.owners)
    if available:
        return Adopt(available)
    now = observed.now_ms
    over = shard.over_ms or shard.sent_ms + rules.upload_timeout_ms
    left_ms = over + rules.lost_create_wait_ms - now
    elapsed_ms = now - shard.sent_ms
    interval_ms = max(1, min(FIRST_SEARCH_S * 1000 + elapsed_ms / 10, rules.list_consistency_ms))
    if left_ms > 0:
        wait_ms = min(left_ms, interval_ms)
        return SearchLater(
            shard.evolve(missed_ms=0), wait_ms / 1000, "looking for the batch of a lost answer"
        )
    if any(observed.owners.get(batch.id) is Owner.UNCONFIRMED for batch in possible):
        reason = "a batch that may be this one is taken for another's"
        return SearchLater(shard.evolve(missed_ms=0), rules.list_consistency_ms / 1000, reason)
    missed = shard.missed_ms or now
    left_ms = missed + rules.list_consistency_ms - now
    if left_ms > 0:
        reason = "no batch of a lost answer was found; looking once more"
        return SearchLater(shard.evolve(missed_ms=missed), left_ms / 1000, reason)
    return Abandon(with_abandoned_call(shard))


def candidates(shard: Shard, batches: Sequence[ListedBatch]) -> tuple[ListedBatch, ...]:
    """The batches that can be of the shard's last call, oldest first."""
    since = shard.watermark_ms - CLOCK_SKEW_MS
    found = [
        batch
        for batch in batches
        if batch.requests == shard.requests
        and batch.created_ms >= since
        and batch.id != shard.watermark
        and batch.id not in shard.rejected
    ]
    return tuple(sorted(found, key=lambda batch: (batch.created_ms, batch.id)))


def adoptable(
    batches: Sequence[ListedBatch], owners: Mapping[str, Owner]
) -> tuple[ListedBatch, ...]:
    """Those that the shard may take, first the one that it had taken already."""
    available = [
        batch for batch in batches if owners.get(batch.id) in (Owner.NONE, Owner.THIS_SHARD, None)
    ]
    return tuple(sorted(available, key=lambda batch: owners.get(batch.id) is not Owner.THIS_SHARD))


def owner_from_record(other: Shard | None, batch_id: str) -> Owner:
    """Whose a batch is that is noted for another shard, by that one's record (None: it has
    expired)."""
    if other is None:
        return Owner.OTHER_SHARD
    if other.batch_id == batch_id:
        return Owner.OTHER_SHARD if other.confirmed else Owner.UNCONFIRMED
    if other.batch_id or batch_id in other.rejected:
        return Owner.NONE  # it has come to another, or has given this one back
    return Owner.UNCONFIRMED  # it takes it just now


def with_intent(shard: Shard, nonce: str, workspace: str, batches: Sequence[ListedBatch]) -> Shard:
    """The record from before a call: what is needed to find its batch, should the answer be lost.
    ``batches``: the newest of the API's list."""
    newest = max(batches, key=lambda batch: batch.created_ms, default=None)
    return shard.evolve(
        state=ShardState.SENDING,
        nonce=nonce,
        workspace=workspace,
        watermark=newest.id if newest else "",
        watermark_ms=newest.created_ms if newest else 0,
        sent_ms=0,
        over_ms=0,
        missed_ms=0,
    )


def without_call(shard: Shard) -> Shard:
    """The record of a call that certainly made no batch."""
    return shard.evolve(state=ShardState.PLANNED, sent_ms=0, over_ms=0, missed_ms=0)


def with_abandoned_call(shard: Shard) -> Shard:
    """The record of a call that will not be looked for any more. Its nonce and watermark stay:
    should its batch appear before the next call is made, it is taken."""
    return without_call(shard).evolve(abandoned_nonces=(*shard.abandoned_nonces, shard.nonce))


def with_batch(shard: Shard, batch: ListedBatch, *, confirmed: bool) -> Shard:
    """The record of a shard whose batch is found. ``sure``: the API named it."""
    return shard.evolve(
        state=ShardState.IN_PROGRESS,
        batch_id=batch.id,
        created_ms=batch.created_ms,
        confirmed=confirmed,
        missed_ms=0,
        failures=0,
    )


def with_earlier_call(shard: Shard, nonce: str) -> Shard:
    """The record of a shard whose batch is of a call that was given up: it is as good, and the
    later call's batch, if there is one, is the superfluous one."""
    others = dict.fromkeys((*shard.abandoned_nonces, shard.nonce))
    return shard.evolve(
        nonce=nonce, abandoned_nonces=tuple(each for each in others if each != nonce)
    )


def with_rejected_batch(shard: Shard) -> Shard:
    """The record of a shard whose batch turned out to be another's: it is looked for again."""
    return without_batch(shard).evolve(rejected=(*shard.rejected, shard.batch_id))


def without_batch(shard: Shard) -> Shard:
    """The record of a shard whose batch is looked for again, and may be the same one."""
    return shard.evolve(
        state=ShardState.SENDING,
        batch_id="",
        confirmed=False,
        created_ms=0,
        ended_ms=0,
        missed_ms=0,
        refetches=0,
    )
