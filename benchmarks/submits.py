"""Simulates create calls, an API that loses answers and workers that die; no I/O.

The decisions are those of `tasks.batches.create.reconcile`, as in the create step. The simulation
knows what really happened to every call, and counts the wrong decisions. Time is simulated.
"""

import heapq
import random
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from penstock.batches.shard import Shard
from tasks.api.batches import ListedBatch
from tasks.batches.create import reconcile
from tasks.batches.create.reconcile import Abandon, Adopt, Observation, Owner, Rules, SearchLater

LEASE_MS: Final = 15_000
TAG_MS: Final = 30_000
RULES: Final = Rules(
    upload_timeout_ms=600_000, lost_create_wait_ms=900_000, list_consistency_ms=60_000
)
ACCOUNT: Final = "ours"
_MINUTE: Final = 60_000
_DAY: Final = 1440 * _MINUTE
#: Days after the last create call until the other programs stop, whatever is still searched for.
_MAX_DAYS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What happens to create calls, and how often."""

    submits: int = 10_000  #: create calls, each of a shard of its own
    seed: int = 1
    every_ms: int = 5_000  #: mean time between two create calls
    ambiguous: float = 0.08  #: share of calls whose answer is lost
    committed: float = 0.5  #: share of these that created a batch
    late: float = 0.2  #: share of these batches that the API creates late, within the waiting time
    died: float = 0.3  #: share of lost answers whose worker died with them
    refused: float = 0.02  #: share of calls that the API rejects
    early_death: float = 0.01  #: share of calls whose worker dies before the last bytes went out
    torn: float = 0.05  #: share of found batches that no record names, because the worker dies
    twice: float = 0.1  #: share of steps that get a second wake-up
    foreign_per_hour: float = 60.0  #: batches of other programs, of the same sizes as ours
    sizes: int = 512  #: sizes that our create calls have in turn
    endless: bool = False  #: the other programs continue until every shard is collected
    api_ahead_ms: int = 0  #: the API's clock against ours
    dated: bool = True  #: the responses of the API say what its clock is
    rules: Rules = RULES
    honest: Rules | None = None  #: how the API behaves, if not according to the rules
    resend: bool = False  #: the other strategy: repeat a call whose answer was lost


@dataclass(slots=True)
class Made:
    """A batch at the simulated API."""

    listed: ListedBatch
    visible_ms: int
    nonce: str
    shard: int  #: -1: of another program
    ends_ms: int


@dataclass(slots=True)
class Play:
    """One run of the simulation."""

    world: World
    now: int = 1_000_000_000
    records: dict[int, Shard] = field(default_factory=dict)
    used: dict[int, Made] = field(default_factory=dict)  #: shard → the batch it was collected from
    batches: list[Made] = field(default_factory=list)
    bound: dict[str, int] = field(default_factory=dict)
    open_sizes: dict[int, int] = field(default_factory=dict)
    unknown_ms: dict[int, int] = field(default_factory=dict)  #: shard → when its answer was lost
    settled_ms: dict[int, int] = field(default_factory=dict)  #: shard → when it got its batch
    waited_ms: list[int] = field(default_factory=list)
    mismatches: int = 0
    searches: int = 0
    read: int = 0  #: ended batches whose results were read to sort them out
    _began: int = 0
    _by_id: dict[str, Made] = field(default_factory=dict)
    _busy: dict[int, int] = field(default_factory=dict)
    _events: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _order: Any = field(default_factory=count)
    _dice: random.Random = field(default_factory=random.Random)

    def run(self) -> dict[str, Any]:
        """Run the simulation to its end; returns the figures."""
        world = self.world
        self._dice.seed(world.seed)
        self._began = at = self.now
        for number in range(world.submits):
            at += round(self._dice.expovariate(1 / world.every_ms))
            size = 10_000 - number % world.sizes
            self.records[number] = Shard(number=number, requests=size)
            self._at(at, lambda number=number: self.step(number))  # type: ignore[misc]
        self._foreign(at)
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        return self.figures()

    def figures(self) -> dict[str, Any]:
        """The figures of the run."""
        ours = [made for made in self.batches if made.shard >= 0]
        used = {made.listed.id for made in self.used.values()}
        waited = self.waited_ms
        return {
            "submits": self.world.submits,
            "ambiguous": len(waited),
            "paid_twice": len(ours) - len({made.shard for made in ours}),
            "never_collected": sum(made.listed.id not in used for made in ours)
            + sum(number not in self.used for number in self.records),
            "wrongly_used": sum(made.shard != number for number, made in self.used.items()),
            "taken_and_given_back": self.mismatches,
            "searches": self.searches,
            "read": self.read,
            "days": round((self.now - self._began) / _DAY, 2),
            "mean_s_to_bind": round(sum(waited) / max(1, len(waited)) / 1000, 1),
        }

    def step(self, number: int) -> None:
        """One run of the create step."""
        shard = self.records[number]
        if self._busy.get(number, 0) > self.now or shard.state not in ("planned", "sending"):
            return  # a duplicate wake-up
        if self._dice.random() < self.world.twice:
            self._at(self.now + self._dice.randrange(20_000), lambda: self.step(number))
        if shard.state == "sending" and shard.sent_ms:
            self._look(number)
        else:
            self.records[number] = reconcile.without_call(shard)
            self._send(number)

    def _send(self, number: int) -> None:
        shard, world, dice = self.records[number], self.world, self._dice
        if not world.resend:
            if self.open_sizes.setdefault(shard.requests, number) != number:
                self._later(number, TAG_MS)
                return
            if shard.abandoned_nonces and self._take(number, self._fitting(shard)):
                return
        nonce = f"{number}.{next(self._order)}"  # new for every call, like the real ones
        newest = self._listed(self.now + self.world.api_ahead_ms - 10 * _MINUTE)[-20:]
        shard = reconcile.with_intent(shard, nonce, ACCOUNT, newest)
        self.records[number] = shard
        upload_ms = dice.randrange(500, 20_000)
        if dice.random() < world.early_death:
            self._later(number, LEASE_MS)
            return
        sent = self.now + upload_ms
        self._busy[number] = sent + 1
        self._at(sent, lambda: self._sent(number))

    def _sent(self, number: int) -> None:
        world, dice = self.world, self._dice
        shard = self.records[number] = self.records[number].evolve(sent_ms=self.now)
        answer = self.now + dice.randrange(200, 30_000)
        fate = dice.random()
        if fate < world.refused:
            self.records[number] = reconcile.without_call(shard)
            self.open_sizes.pop(shard.requests, None)
            self._later(number, 5_000)
        elif fate < world.refused + world.ambiguous:
            self._lose(number, answer)
        else:
            self._busy[number] = answer + 1
            made = self._commit(shard, dice.randrange(self.now, answer), number)
            self._at(answer, lambda: self._answered(number, made))

    def _lose(self, number: int, answer: int) -> None:
        """Lose the answer to a call, and in some cases its worker as well."""
        world, dice, shard = self.world, self._dice, self.records[number]
        self.unknown_ms.setdefault(number, self.now)
        died = dice.random() < world.died
        over = self.now + world.rules.upload_timeout_ms if died else answer
        if dice.random() < world.committed:
            late = dice.random() < world.late
            latest = over + (world.honest or world.rules).lost_create_wait_ms if late else answer
            self._commit(shard, dice.randrange(self.now, latest), number)
        if died:
            self._later(number, LEASE_MS)
            return
        self._busy[number] = answer + 1
        self._at(answer, lambda: self._know_it_is_over(number))

    def _know_it_is_over(self, number: int) -> None:
        shard = self.records[number]
        if self.world.resend:
            self.records[number] = reconcile.without_call(shard)
        else:
            self.records[number] = shard.evolve(over_ms=self.now)
        self._later(number, 5_000)

    def _answered(self, number: int, made: Made) -> None:
        self.bound[made.listed.id] = number
        self._settle(
            number, reconcile.with_batch(self.records[number], made.listed, confirmed=True)
        )

    def _look(self, number: int) -> None:
        shard = self.records[number]
        if self.world.resend:
            self.records[number] = reconcile.without_call(shard)
            self._send(number)
            return
        batches = self._listed(shard.watermark_ms - reconcile.CLOCK_SKEW_MS)
        fitting = reconcile.candidates(shard, batches)
        owners = {batch.id: self._owner(number, batch.id) for batch in fitting}
        api_now = self.now + self.world.api_ahead_ms if self.world.dated else 0
        look = Observation(ACCOUNT, batches, owners, self.now, api_now)
        self.searches += 1
        decision = reconcile.decide(shard, look, self.world.rules)
        if isinstance(decision, Adopt):
            found = self._sort_out(number, decision.batches)
            if self._take(number, found):
                return
            decision = reconcile.decide(self.records[number], look, self.world.rules)
        match decision:
            case SearchLater(kept, seconds, _):
                self.records[number] = kept
                self._later(number, round(seconds * 1000))
            case Abandon(kept):
                self.records[number] = kept
                self.open_sizes.pop(shard.requests, None)
                self._later(number, 0)

    def _sort_out(self, number: int, found: tuple[ListedBatch, ...]) -> tuple[ListedBatch, ...]:
        """Reject the ended batches of other calls, as the create step does."""
        shard = self.records[number]
        ours = (shard.nonce, *shard.abandoned_nonces)
        ended = {
            each.id: self._by_id[each.id].nonce in ours
            for each in found
            if self._by_id[each.id].ends_ms <= self.now
        }
        self.read += len(ended)
        foreign = tuple(id for id, own in ended.items() if not own)
        self.records[number] = shard.evolve(rejected=(*shard.rejected, *foreign))
        own = tuple(each for each in found if ended.get(each.id))
        return own or tuple(each for each in found if each.id not in ended)

    def _fitting(self, shard: Shard) -> tuple[ListedBatch, ...]:
        batches = self._listed(shard.watermark_ms - reconcile.CLOCK_SKEW_MS)
        fitting = reconcile.candidates(shard, batches, shard.until_ms)
        owners = {batch.id: self._owner(shard.number, batch.id) for batch in fitting}
        return reconcile.adoptable(fitting, owners)

    def _take(self, number: int, found: tuple[ListedBatch, ...]) -> bool:
        if not found:
            return False
        self.bound[found[0].id] = number
        if self._dice.random() < self.world.torn:
            self._later(number, LEASE_MS)  # the worker died between the two writes
        else:
            self._settle(
                number, reconcile.with_batch(self.records[number], found[0], confirmed=False)
            )
        return True

    def _settle(self, number: int, shard: Shard) -> None:
        self.records[number] = shard
        self.open_sizes.pop(shard.requests, None)
        self.settled_ms[number] = self.now
        ends = self._by_id[shard.batch_id].ends_ms
        self._at(max(ends, self.now + 1), lambda: self._end(number))

    def _end(self, number: int) -> None:
        """End a shard's batch: its results show which call it belongs to."""
        shard = self.records[number]
        made = self._by_id[shard.batch_id]
        if made.nonce in (shard.nonce, *shard.abandoned_nonces):
            self.used[number] = made
            self.records[number] = shard.evolve(state="collected", confirmed=True)
            if number in self.unknown_ms:
                self.waited_ms.append(self.settled_ms[number] - self.unknown_ms[number])
            return
        self.mismatches += 1
        self.bound.pop(shard.batch_id, None)
        self.records[number] = reconcile.with_rejected_batch(shard)
        self._later(number, 0)

    def _owner(self, number: int, batch_id: str) -> Owner:
        holder = self.bound.get(batch_id)
        if holder is None:
            return Owner.NONE
        if holder == number:
            return Owner.THIS_SHARD
        return reconcile.owner_from_record(self.records[holder], batch_id)

    def _commit(self, shard: Shard, at: int, number: int) -> Made:
        id = f"msgbatch_{next(self._order)}"
        visible = at + self._dice.randrange(self.world.rules.list_consistency_ms)
        listed = ListedBatch(id, at + self.world.api_ahead_ms, shard.requests)
        ends = at + self._dice.randrange(2 * _MINUTE, 120 * _MINUTE)
        made = Made(listed, visible, shard.nonce, number, ends)
        self._by_id[id] = made
        insort(self.batches, made, key=lambda each: each.listed.created_ms)
        return made

    def _listed(self, since: int) -> list[ListedBatch]:
        first = bisect_left(self.batches, since, key=lambda each: each.listed.created_ms)
        return [each.listed for each in self.batches[first:] if each.visible_ms <= self.now]

    def _foreign(self, last_call: int) -> None:
        """Let another program create a batch, and again after a while."""
        world = self.world
        if not world.foreign_per_hour:
            return
        at = self.now + round(self._dice.expovariate(world.foreign_per_hour / (60 * _MINUTE)))
        until = last_call + (_MAX_DAYS * _DAY if world.endless else 0)
        if at > until or (at > last_call and len(self.used) == len(self.records)):
            return
        size = 10_000 - self._dice.randrange(world.sizes)

        def create() -> None:
            self._commit(Shard(number=-1, requests=size, nonce="foreign"), at, -1)
            self._foreign(last_call)

        self._at(at, create)

    def _later(self, number: int, wait_ms: int) -> None:
        self._busy[number] = self.now + max(1, wait_ms)
        self._at(self._busy[number], lambda: self.step(number))

    def _at(self, time_ms: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_ms, next(self._order), happen))
