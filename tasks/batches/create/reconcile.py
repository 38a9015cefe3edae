"""Decides what to do about a create call whose response was lost. Pure.

The API has no idempotency key. Its list shows only two properties of a batch that identify the call
it came from: when it was created, and its number of requests. So the batch of a lost call is
searched for by its size, which no other open call of this deployment has, and by its time. Whether
a batch is really the shard's shows only in its results, whose custom_ids begin with the nonce of
the call.

The time has two limits: a batch is not older than the newest one in the list before the call, and
not newer than the end of all waiting after it. Without the second, another program that creates
batches of the same size would keep the search going without end.

To adopt a batch that is not the shard's costs nothing but time. To send the shard again can cost a
second batch. So a batch that fits is adopted as soon as it is found, and a call is abandoned only
after every wait is over and two searches, some time apart, have found nothing that fits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from penstock.batches.shard import Shard, ShardState
from tasks.api.batches import UNKNOWN_REQUESTS, ListedBatch

#: Milliseconds by which a batch may appear older than the watermark of its call: the clocks of the
#: API's servers differ.
CLOCK_SKEW_MS: Final = 60_000

#: Maximum milliseconds by which the API's clock is believed to be ahead of Redis's: a gateway may
#: send any ``Date``.
_MAX_AHEAD_MS: Final = 3_600_000

#: Seconds until the first search for the batch of a lost call; the interval grows from there.
FIRST_SEARCH_S: Final = 5.0

#: HTTP statuses of a create call after which the API has certainly created no batch: it, or a proxy
#: in front of it, has rejected the call itself.
NO_BATCH_STATUSES: Final = frozenset(
    {400, 401, 402, 403, 404, 405, 407, 411, 413, 414, 415, 422, 429, 431, 451}
)


class Owner(Enum):
    """Which shard a listed batch belongs to, as seen by one shard."""

    NONE = 0  #: no shard
    THIS_SHARD = 1
    OTHER_SHARD = 2
    UNCONFIRMED = 3  #: another shard has adopted it, and may turn out not to own it


@dataclass(frozen=True, slots=True)
class Observation:
    """What one search of the API's list found."""

    workspace: str  #: the workspace whose list it is
    batches: Sequence[ListedBatch]  #: all batches since well before the watermark of the call
    owners: Mapping[str, Owner]  #: batch id → owner, for the candidates
    now_ms: int  #: by the clock of the times in the shard's record
    api_now_ms: int = 0  #: the same by the API's clock; 0: it is not known


@dataclass(frozen=True, slots=True)
class Rules:
    """How long the outcome of a lost call stays open."""

    upload_timeout_ms: int  #: from the last bytes until a call whose worker died is over
    lost_create_wait_ms: int  #: after a call is over, how long the API may still create its batch
    list_consistency_ms: int  #: from its creation until a batch is certainly in the list


@dataclass(frozen=True, slots=True)
class Adopt:
    """Each of these may be the batch of the call, the most likely one first."""

    batches: tuple[ListedBatch, ...]


@dataclass(frozen=True, slots=True)
class SearchLater:
    """It is too early to decide. ``shard`` is the record to write."""

    shard: Shard
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """The call created no batch. ``shard`` is the record to write: planned again."""

    shard: Shard


@dataclass(frozen=True, slots=True)
class WrongWorkspace:
    """The list is of another workspace than the call, so it proves nothing."""


Decision: TypeAlias = Adopt | SearchLater | Abandon | WrongWorkspace


def decide(shard: Shard, observed: Observation, rules: Rules) -> Decision:
    """Decide about a lost call from the shard's record and one search of the list."""
    if observed.workspace != shard.workspace:
        return WrongWorkspace()
    until_ms = latest_creation_ms(shard, observed.now_ms, observed.api_now_ms, rules)
    possible = candidates(shard, observed.batches, until_ms)
    available = adoptable(possible, observed.owners)
    if available:
        return Adopt(available)
    now = observed.now_ms
    over = _over_ms(shard, rules)
    left_ms = over + rules.lost_create_wait_ms - now
    elapsed_ms = now - shard.sent_ms
    interval_ms = max(1, min(FIRST_SEARCH_S * 1000 + elapsed_ms / 10, rules.list_consistency_ms))
    if left_ms > 0:
        wait_ms = min(left_ms, interval_ms)
        reason = "searching for the batch of a lost create call"
        return SearchLater(shard.evolve(missed_ms=0), wait_ms / 1000, reason)
    if any(observed.owners.get(batch.id) is Owner.UNCONFIRMED for batch in possible):
        reason = "another shard has adopted a batch that may be this shard's"
        return SearchLater(shard.evolve(missed_ms=0), rules.list_consistency_ms / 1000, reason)
    missed = shard.missed_ms or now
    left_ms = missed + rules.list_consistency_ms - now
    if left_ms > 0:
        reason = "found no batch of a lost create call; searching once more"
        return SearchLater(shard.evolve(missed_ms=missed), left_ms / 1000, reason)
    return Abandon(with_abandoned_call(shard, until_ms))


def latest_creation_ms(shard: Shard, now_ms: int, api_now_ms: int, rules: Rules) -> int:
    """Return the time, by the API's clock, after which a batch cannot come from the shard's call.

    ``now_ms`` is by Redis's clock, as the times in the record are; ``api_now_ms``: 0 if unknown. If
    Redis's clock is ahead, the time is later than needed, which costs a longer search and no money.
    """
    ahead_ms = min(max(api_now_ms - now_ms, 0), _MAX_AHEAD_MS)
    waited_ms = rules.lost_create_wait_ms + rules.list_consistency_ms
    return _over_ms(shard, rules) + waited_ms + CLOCK_SKEW_MS + ahead_ms


def _over_ms(shard: Shard, rules: Rules) -> int:
    return shard.over_ms or shard.sent_ms + rules.upload_timeout_ms


def candidates(
    shard: Shard, batches: Sequence[ListedBatch], until_ms: int = 0
) -> tuple[ListedBatch, ...]:
    """Return the batches that can come from the shard's last call, oldest first.

    ``until_ms``: of `latest_creation_ms`; 0: it is not known. A batch whose time the list does not
    give can be from any time.
    """
    since, rejected = shard.watermark_ms - CLOCK_SKEW_MS, set(shard.rejected)
    found = [
        batch
        for batch in batches
        if batch.requests in (shard.requests, UNKNOWN_REQUESTS)
        and batch.created_ms >= since
        and not (until_ms and batch.dated and batch.created_ms > until_ms)
        and batch.id != shard.watermark
        and batch.id not in rejected
    ]
    return tuple(sorted(found, key=lambda batch: (batch.created_ms, batch.id)))


def adoptable(
    batches: Sequence[ListedBatch], owners: Mapping[str, Owner]
) -> tuple[ListedBatch, ...]:
    """Return those of the batches that the shard may adopt.

    A batch that the shard owns already comes first: its worker died between noting the owner and
    writing the record.
    """
    free = (Owner.NONE, Owner.THIS_SHARD, None)
    available = [batch for batch in batches if owners.get(batch.id) in free]
    return tuple(sorted(available, key=lambda batch: owners.get(batch.id) is not Owner.THIS_SHARD))


def owner_from_record(other: Shard | None, batch_id: str) -> Owner:
    """Return the owner of a batch that is noted as another shard's.

    ``other`` is the record of that shard; None: it has expired.
    """
    if other is None:
        return Owner.OTHER_SHARD
    if other.batch_id == batch_id:
        return Owner.OTHER_SHARD if other.confirmed else Owner.UNCONFIRMED
    if other.batch_id or batch_id in other.rejected:
        return Owner.NONE  # the other shard has another batch, or has rejected this one
    return Owner.UNCONFIRMED  # the other shard is about to write its record


def with_intent(shard: Shard, nonce: str, workspace: str, batches: Sequence[ListedBatch]) -> Shard:
    """Return the record to write before a create call: the intent.

    It has what is needed to find the batch if the response is lost. ``batches`` are the newest of
    the API's list.
    """
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
        lost="",
    )


def without_call(shard: Shard) -> Shard:
    """Return the record after a call that certainly created no batch."""
    return shard.evolve(state=ShardState.PLANNED, sent_ms=0, over_ms=0, missed_ms=0)


def with_abandoned_call(shard: Shard, until_ms: int) -> Shard:
    """Return the record after a call was abandoned: the shard is planned again.

    Nonce, watermark and the time of `latest_creation_ms` stay, so that the call's batch is adopted
    if it appears in the list before the next create call.
    """
    nonces = (*shard.abandoned_nonces, shard.nonce)
    return without_call(shard).evolve(abandoned_nonces=nonces, until_ms=until_ms)


def with_batch(shard: Shard, batch: ListedBatch, *, confirmed: bool) -> Shard:
    """Return the record of a shard that has a batch.

    ``confirmed``: the API named the batch in its response; otherwise it was found in the list.
    """
    # A batch is not older than its call, whatever the response says.
    earliest_ms = shard.sent_ms - CLOCK_SKEW_MS if confirmed else 0
    return shard.evolve(
        state=ShardState.IN_PROGRESS,
        batch_id=batch.id,
        created_ms=max(batch.created_ms, earliest_ms),
        confirmed=confirmed,
        missed_ms=0,
        not_found_ms=0,
        failures=0,
        simulated=batch.simulated,
    )


def with_earlier_call(shard: Shard, nonce: str) -> Shard:
    """Return the record of a shard whose batch comes from an abandoned call.

    That call was abandoned too early, and its batch has the same requests. From now on the later
    call is the abandoned one: if it created a batch as well, that batch is the duplicate.
    """
    others = dict.fromkeys((*shard.abandoned_nonces, shard.nonce))
    return shard.evolve(
        nonce=nonce, abandoned_nonces=tuple(each for each in others if each != nonce)
    )


def with_rejected_batch(shard: Shard) -> Shard:
    """Return the record after results showed that the batch is not the shard's.

    The shard's own batch is searched for again, and this one is not a candidate any more.
    """
    return without_batch(shard).evolve(rejected=(*shard.rejected, shard.batch_id))


def without_batch(shard: Shard) -> Shard:
    """Return the record of a shard whose batch, maybe the same, is searched for again."""
    return shard.evolve(
        state=ShardState.SENDING,
        batch_id="",
        confirmed=False,
        created_ms=0,
        ended_ms=0,
        missed_ms=0,
        not_found_ms=0,
        refetches=0,
    )
