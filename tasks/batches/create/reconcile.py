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
CLOCK_SLACK_MS: Final = 60_000

#: Seconds until the first look for the batch of a lost answer; later looks come more slowly.
FIRST_LOOK_S: Final = 5.0

#: Answers to a create call that say for certain that no batch was made.
DEFINITE: Final = frozenset({400, 401, 402, 403, 404, 413, 422, 429})


class Owner(Enum):
    """Whose a listed batch is."""

    NOBODY = 0
    OURS = 1  #: this shard's
    OTHER = 2  #: another shard's
    GUESSED = 3  #: another shard took it for its own, and may have to give it back


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the API's list."""

    workspace: str  #: whose list it is
    batches: Sequence[ListedBatch]  #: all since well before the call's watermark
    owners: Mapping[str, Owner]  #: of those that fit
    now_ms: int  #: by the clock that the record's times are of


@dataclass(frozen=True, slots=True)
class Rules:
    """How long a call's fate stays open."""

    timeout_ms: int  #: after which a call whose worker died is over
    quarantine_ms: int  #: in which the API may still make a batch of a call that is over
    lag_ms: int  #: after which a batch is in the list


@dataclass(frozen=True, slots=True)
class Bind:
    """These may be the call's batch, likeliest first."""

    batches: tuple[ListedBatch, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """It is too early to tell. ``shard`` is the record to keep."""

    shard: Shard
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The call made no batch. ``shard`` is the record to keep: it is planned again."""

    shard: Shard


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The list is of another account than the call was made for: it says nothing."""


Decision: TypeAlias = Bind | Wait | GiveUp | Elsewhere


def decide(shard: Shard, look: Look, rules: Rules) -> Decision:
    """What to do about a call of which only the record is known."""
    if look.workspace != shard.workspace:
        return Elsewhere()
    fitting = likely(shard, look.batches)
    free = free_of(fitting, look.owners)
    if free:
        return Bind(free)
    now = look.now_ms
    over = shard.over_ms or shard.sent_ms + rules.timeout_ms
    left_ms = over + rules.quarantine_ms - now
    patience_ms = max(1, min(FIRST_LOOK_S * 1000 + (now - shard.sent_ms) / 10, rules.lag_ms))
    if left_ms > 0:
        wait_ms = min(left_ms, patience_ms)
        return Wait(
            shard.evolve(missed_ms=0), wait_ms / 1000, "looking for the batch of a lost answer"
        )
    if any(look.owners.get(batch.id) is Owner.GUESSED for batch in fitting):
        reason = "a batch that may be this one is taken for another's"
        return Wait(shard.evolve(missed_ms=0), rules.lag_ms / 1000, reason)
    missed = shard.missed_ms or now
    left_ms = missed + rules.lag_ms - now
    if left_ms > 0:
        reason = "no batch of a lost answer was found; looking once more"
        return Wait(shard.evolve(missed_ms=missed), left_ms / 1000, reason)
    return GiveUp(given_up(shard))


def likely(shard: Shard, batches: Sequence[ListedBatch]) -> tuple[ListedBatch, ...]:
    """The batches that can be of the shard's last call, oldest first."""
    since = shard.watermark_ms - CLOCK_SLACK_MS
    found = [
        batch
        for batch in batches
        if batch.requests == shard.requests
        and batch.created_ms >= since
        and batch.id != shard.watermark
        and batch.id not in shard.rejected
    ]
    return tuple(sorted(found, key=lambda batch: (batch.created_ms, batch.id)))


def free_of(batches: Sequence[ListedBatch], owners: Mapping[str, Owner]) -> tuple[ListedBatch, ...]:
    """Those that the shard may take, first the one that it had taken already."""
    free = [batch for batch in batches if owners.get(batch.id) in (Owner.NOBODY, Owner.OURS, None)]
    return tuple(sorted(free, key=lambda batch: owners.get(batch.id) is not Owner.OURS))


def held_by(other: Shard | None, batch_id: str) -> Owner:
    """Whose a batch is that is noted for another shard, by that one's record (None: it has
    expired)."""
    if other is None:
        return Owner.OTHER
    if other.batch_id == batch_id:
        return Owner.OTHER if other.confirmed else Owner.GUESSED
    if other.batch_id or batch_id in other.rejected:
        return Owner.NOBODY  # it has come to another, or has given this one back
    return Owner.GUESSED  # it takes it just now


def intended(shard: Shard, nonce: str, workspace: str, batches: Sequence[ListedBatch]) -> Shard:
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


def unsent(shard: Shard) -> Shard:
    """The record of a call that certainly made no batch."""
    return shard.evolve(state=ShardState.PLANNED, sent_ms=0, over_ms=0, missed_ms=0)


def given_up(shard: Shard) -> Shard:
    """The record of a call that will not be looked for any more. Its nonce and watermark stay:
    should its batch appear before the next call is made, it is taken."""
    return unsent(shard).evolve(abandoned_nonces=(*shard.abandoned_nonces, shard.nonce))


def bound(shard: Shard, batch: ListedBatch, *, confirmed: bool) -> Shard:
    """The record of a shard whose batch is found. ``sure``: the API named it."""
    return shard.evolve(
        state=ShardState.IN_PROGRESS,
        batch_id=batch.id,
        created_ms=batch.created_ms,
        confirmed=confirmed,
        missed_ms=0,
        failures=0,
    )


def of_earlier(shard: Shard, nonce: str) -> Shard:
    """The record of a shard whose batch is of a call that was given up: it is as good, and the
    later call's batch, if there is one, is the superfluous one."""
    others = dict.fromkeys((*shard.abandoned_nonces, shard.nonce))
    return shard.evolve(
        nonce=nonce, abandoned_nonces=tuple(each for each in others if each != nonce)
    )


def rejected(shard: Shard) -> Shard:
    """The record of a shard whose batch turned out to be another's: it is looked for again."""
    return sought(shard).evolve(rejected=(*shard.rejected, shard.batch_id))


def sought(shard: Shard) -> Shard:
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
