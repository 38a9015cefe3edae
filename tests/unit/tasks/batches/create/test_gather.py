"""When a retry shard waits for others, and which of them share a batch with it."""

from typing import Any

import pytest

from penstock.batches.shard import Counts, Shard
from penstock.batches.wire import EMPTY_BODY_BYTES
from tasks.batches.create.gather import (
    can_share,
    merged,
    partners_of,
    wait_for_round_s,
)

NOW = 10_000_000


def parent(number: int, state: str = "collected", took_s: int = 100, ago_s: int = 5) -> Shard:
    """A shard of the first round; four of them make the job."""
    ended = NOW - ago_s * 1000
    times: dict[str, Any] = {
        "created_ms": ended - took_s * 1000,
        "ended_ms": ended,
        "collected_ms": ended,
    }
    if state != "collected":
        times |= {"collected_ms": 0}
    return Shard(number=number, state=state, requests=100, size=50_000, batch_id="b", **times)


def retry(number: int, requests: int = 1, **changes: Any) -> Shard:
    """The retry shard of ``number - 4``."""
    size = EMPTY_BODY_BYTES - 1 + 300 * requests
    fields: dict[str, Any] = {
        "round": 1,
        "first": number,
        "last": number + 50,
        "spool": f"{number}-1",
        "request_chunks": 1,
        "id_chunks": 2,
        "size_by_model": {"m": [200, 10]},
        "counts": Counts(processing=requests),
    }
    return Shard(number=number, requests=requests, size=size, **fields | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 0},
        {"state": "sending"},
        {"nonce": "x"},
        {"abandoned_nonces": ("x",)},
        {"batch_id": "msgbatch_1"},
        {"live": True},
    ],
)
def test_only_retry_shards_without_any_call_share_batches(changes: dict[str, Any]) -> None:
    assert can_share(retry(4))
    assert not can_share(retry(4, **changes))
    shards = [*map(parent, range(4)), retry(4), retry(5, **changes)]
    assert partners_of(shards[4], shards) == []


def test_a_retry_shard_waits_for_running_batches_as_long_as_its_own_took() -> None:
    child, running = retry(4), parent(1, "in_progress")
    assert wait_for_round_s(child, [parent(0), running, child], 4, NOW) == 10
    assert wait_for_round_s(child, [parent(0, ago_s=101), running, child], 4, NOW) == 0
    quick = [parent(0, took_s=10), running, child]
    assert wait_for_round_s(child, quick, 4, NOW) == 1
    slow = [parent(0, took_s=50_000, ago_s=901), running, child]
    assert wait_for_round_s(child, slow, 4, NOW) == 0


@pytest.mark.parametrize("state", ["planned", "collected", "sending"])
def test_a_retry_shard_does_not_wait_for_batches_that_have_not_begun_or_are_collected(
    state: str,
) -> None:
    child = retry(4)
    assert wait_for_round_s(child, [parent(0), parent(1, state), child], 4, NOW) == 0


def test_a_retry_shard_of_which_the_parent_is_unknown_does_not_wait() -> None:
    child = retry(9)
    assert wait_for_round_s(child, [parent(1, "in_progress"), child], 4, NOW) == 0


def test_a_retry_shard_waits_a_bounded_time_to_be_taken_by_a_lower_one() -> None:
    lower, higher = retry(4), retry(5)
    shards = [parent(0), parent(1), lower, higher]
    assert wait_for_round_s(lower, shards, 4, NOW) == 0
    assert wait_for_round_s(higher, shards, 4, NOW) == 10
    late = [parent(0), parent(1, ago_s=131), lower, higher]
    assert wait_for_round_s(higher, late, 4, NOW) == 0


def test_shards_share_a_batch_up_to_the_largest_of_the_job() -> None:
    shards = [*map(parent, range(4)), retry(4, 40), retry(5, 50), retry(6, 20), retry(7, 10)]
    assert [each.number for each in partners_of(shards[4], shards)] == [5, 7]
    assert [each.number for each in partners_of(shards[6], shards)] == [7]


def test_shards_of_another_round_or_with_other_betas_are_sent_apart() -> None:
    other = [retry(5, round=2), retry(6, betas=("x",)), retry(7)]
    shards = [*map(parent, range(4)), retry(4), *other]
    assert [each.number for each in partners_of(shards[4], shards)] == [7]


def test_a_merged_shard_has_the_requests_of_all() -> None:
    others = [retry(5, 2, size_by_model={"m": [1, 2], "n": [3, 4]}), retry(6, 3, first=1)]
    found = merged(retry(4), others, spool="4-9")
    assert (found.number, found.requests, found.round) == (4, 6, 1)
    assert found.size == EMPTY_BODY_BYTES - 1 + 300 * 6
    assert (found.first, found.last) == (1, 56)
    assert found.size_by_model == {"m": [401, 22], "n": [3, 4]}
    assert (found.spool, found.request_chunks, found.id_chunks) == ("4-9", 3, 6)
    assert found.counts == Counts(processing=6)
