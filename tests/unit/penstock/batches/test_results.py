"""Result lines: with their custom_ids, in both orders, from any line on."""

import random
import tracemalloc
from collections.abc import Iterator
from itertools import islice

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.batches import results
from penstock.batches.results import CollectionOrder, LineOffset, Results, checked_order, line_count
from penstock.batches.shard import Shard
from penstock.errors import InvalidRequest, NotFound
from penstock.events import END, PROGRESS, Event
from tests.collected import MemoryChunkStore, Named, collected, spooled, succeeded

#: Shards of the first round in a made-up job; a retry shard has the number of its parent plus this.
SHARDS = 100


class MadeUp:
    """A job with interleaved shards, retried requests, and shards without result chunks."""

    def __init__(self, sizes: list[int], groups: int, seed: int) -> None:
        self.store = MemoryChunkStore()
        self.shards: list[Shard] = []
        self._rng = random.Random(seed)
        self.count = sum(sizes)
        cut = self._divided(sizes, groups)
        for number, named in enumerate(cut):
            self._collect(number, named, rounds=3)
        self._rng.shuffle(self.shards)

    def _divided(self, sizes: list[int], groups: int) -> list[list[Named]]:
        """Assign positions to groups (beta headers) at random; each group fills its own shards."""
        limits = iter([*sizes, *([max(sizes)] * self.count)])
        done: list[list[Named]] = []
        still: dict[int, tuple[int, list[Named]]] = {}
        for position in range(self.count):
            group = self._rng.randrange(groups)
            limit, named = still.setdefault(group, (next(limits), []))
            named.append((position, f"id-{position}-{'x' * (position % 7)}"))
            if len(named) == limit:
                done.append(still.pop(group)[1])
        return [*done, *(named for _, named in still.values())]

    def _collect(self, number: int, named: list[Named], rounds: int) -> None:
        spool = str(number) if number < SHARDS else f"{number}-1"
        shard = spooled(self.store, number, named, spool=spool, round=3 - rounds)
        at_ms = self._rng.randrange(50)
        if self._rng.random() < 0.2:
            canceled = shard.evolve(state="collected", uniform_result={"type": "canceled"})
            self.shards.append(canceled.evolve(collected_ms=at_ms))
            return
        order = self._rng.sample(range(len(named)), len(named))
        share = self._rng.choice([0.0, 0.3, 1.0]) if rounds else 0.0
        again = sorted(i for i in order if self._rng.random() < share)
        self.shards.append(
            collected(self.store, shard, named, order, retried=again, at_ms=at_ms, limit=200)
        )
        if again:
            self._collect(number + SHARDS, [named[i] for i in again], rounds - 1)

    @property
    def results(self) -> Results:
        return Results("JOB", self.store)

    @property
    def positions(self) -> dict[str, int]:
        return {f"id-{i}-{'x' * (i % 7)}": i for i in range(self.count)}


made_up = st.builds(
    MadeUp,
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    groups=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)


def ids_of(lines: Iterator[bytes]) -> list[str]:
    found = []
    for line in lines:
        parsed = orjson.loads(line)
        assert list(parsed) == ["custom_id", "result"]
        kind = parsed["result"]["type"]
        expected = succeeded(parsed["custom_id"]) if kind == "succeeded" else {"type": "canceled"}
        assert parsed["result"] == expected
        found.append(parsed["custom_id"])
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made_up, st.sampled_from([0, 1, 2, 100]))
def test_every_request_has_one_line_in_the_order_of_submission(job: MadeUp, small: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "_MAX_CHUNKS_IN_MEMORY", small)  # larger shards are sorted in a file
        assert ids_of(job.results.submitted(job.shards)) == list(job.positions)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made_up)
def test_every_request_has_one_line_in_the_order_of_collection(job: MadeUp) -> None:
    ids = [
        i for s in CollectionOrder().without_event(job.shards) for i in ids_of(job.results.lines(s))
    ]
    assert len(ids) == job.count
    assert set(ids) == set(job.positions)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made_up, st.integers(0, 60))
def test_a_reader_continues_at_any_line(job: MadeUp, after: int) -> None:
    whole = list(job.results.submitted(job.shards))
    assert list(job.results.submitted(job.shards, after=after)) == whole[after:]
    shards, offset = CollectionOrder().without_event(job.shards), LineOffset(after)
    whole = [line for s in shards for line in job.results.lines(s)]
    rest = [line for s in shards for line in job.results.lines(s, after=offset.skip(s))]
    assert rest == whole[after:]


def test_a_result_line_is_the_apis_with_the_producers_custom_id() -> None:
    store, named = MemoryChunkStore(), [(0, "mine")]
    shard = collected(store, spooled(store, 0, named), named, [0])
    [line] = Results("JOB", store).lines(shard)
    assert line == b'{"custom_id":"mine","result":' + orjson.dumps(succeeded("mine")) + b"}"


def test_chunks_of_skipped_shards_are_not_read() -> None:
    store = MemoryChunkStore()
    named = [[(10 * n + i, f"id-{n}-{i}") for i in range(10)] for n in range(3)]
    shards = [collected(store, spooled(store, n, named[n]), named[n], range(10)) for n in range(3)]
    offset, found = LineOffset(20), Results("JOB", store)
    taken = [line for s in shards for line in found.lines(s, after=offset.skip(s))]
    assert len(taken) == 10
    assert store.reads == shards[2].id_chunks + shards[2].result_chunks


def test_the_chunks_of_a_shard_are_read_when_its_first_line_is_due() -> None:
    store = MemoryChunkStore()
    named = [[(10 * n + i, f"id-{n}-{i}") for i in range(10)] for n in range(3)]
    shards = [collected(store, spooled(store, n, named[n]), named[n], range(10)) for n in range(3)]
    for _ in islice(Results("JOB", store).submitted(shards), 9):
        pass
    assert store.reads == shards[0].id_chunks + shards[0].result_chunks


def test_a_shard_that_is_not_collected_or_wholly_retried_has_no_lines() -> None:
    store, named = MemoryChunkStore(), [(0, "a"), (1, "b")]
    shard = spooled(store, 0, named)
    moved = collected(store, shard, named, [0, 1], retried=[0, 1])
    found = Results("JOB", store)
    assert line_count(shard) == line_count(moved) == 0
    assert list(found.submitted([shard, moved])) == []
    assert [*found.lines(shard), *found.lines(moved)] == []


@pytest.mark.parametrize("lost", ["ids-0", "results-0-1"])
def test_results_whose_chunks_have_expired_are_not_found(lost: str) -> None:
    store, named = MemoryChunkStore(), [(0, "a"), (1, "b")]
    shard = collected(store, spooled(store, 0, named), named, [1, 0])
    store.remove([lost])
    found = Results("JOB", store)
    for read in (found.lines, lambda each: found.submitted([each])):
        with pytest.raises(
            NotFound, match=r"results of JOB are no longer complete .* have expired"
        ):
            list(read(shard))


def progress(n: int, shard: int, state: str = "collected") -> Event:
    return Event(0, n, {"type": PROGRESS, "shard": shard, "state": state})


def test_the_order_of_collection_is_that_of_the_events() -> None:
    collection_order = CollectionOrder()
    published = [progress(2, 1, "in_progress"), progress(3, 2), progress(4, 1), progress(5, 2)]
    assert [collection_order.shard_of(event) for event in published] == [None, 2, 1, None]
    assert collection_order.shard_of(Event(0, 6, {"type": END, "state": "done"})) is None
    shards = [
        Shard(number=n, state="collected", collected_ms=ms)
        for n, ms in ((5, 9), (4, 9), (3, 10), (2, 1), (1, 1))
    ]
    assert [s.number for s in collection_order.without_event([*shards, Shard(number=6)])] == [
        4,
        5,
        3,
    ]


@pytest.mark.parametrize(
    ("order", "wait", "after", "words"),
    [
        ("random", False, 0, "order: must be 'completed' or 'submitted'"),
        ("submitted", True, 0, "order: .* when the job has ended"),
        ("completed", False, -1, "after: "),
    ],
)
def test_an_invalid_order_or_offset_is_refused_by_its_name(
    order: str, wait: bool, after: int, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        checked_order(order, wait=wait) and LineOffset(after)


def test_a_large_shard_is_not_held_in_memory() -> None:
    """40 MB of results, read twice, in less than half of that."""
    store, text = MemoryChunkStore(), "x" * 2_000
    named = [(i, f"id-{i}") for i in range(20_000)]
    shard = spooled(store, 0, named, limit=2**19)
    order = random.Random(1).sample(range(len(named)), len(named))
    shard = collected(
        store, shard, named, order, result=lambda each: {**succeeded(each), "x": text}, limit=2**19
    )
    found = Results("JOB", store)
    tracemalloc.start()
    try:
        assert sum(1 for _ in found.lines(shard)) == sum(1 for _ in found.submitted([shard]))
        assert tracemalloc.get_traced_memory()[1] < 15_000_000
    finally:
        tracemalloc.stop()
