"""Publisher: how leases are renewed, and what the replies mean for the streams.

The connection is scripted and the time is virtual: one group of streams is renewed each second.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from penstock.store.request_scripts import renew
from tasks.streams.publish.publisher import RENEWAL_GROUPS, RENEWALS_PER_LEASE
from tests.unit.tasks.streams.publish.outbox_calls import DEPLOYMENT, ok
from tests.unit.tasks.streams.publish.publisher_stage import LEASE_MS, TIMEOUT_S, Stage
from tests.unit.tasks.streams.publish.scripted_redis import NEVER

Perform = Callable[..., None]

FENCED = [b"fenced"]
FULL = ResponseError("OOM command not allowed when used memory > 'maxmemory'")
LEASE_S = LEASE_MS / 1000


def renewed(n: int, cancel: bytes = b"") -> list[Any]:
    return [b"ok", cancel, n]


def test_each_lease_is_renewed_three_times_within_its_lifetime(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        await stage.seconds(10 * LEASE_S + 0.5)
        times = {
            box.id: [call.at for call in stage.redis.calls("renew", box.id)] for box in stage.boxes
        }
        assert {len(each) for each in times.values()} == {10 * RENEWALS_PER_LEASE}
        for each in times.values():
            assert max(b - a for a, b in pairwise(each)) == pytest.approx(RENEWAL_GROUPS)

    perform(test, streams=20)


def test_streams_are_renewed_in_groups_of_the_same_size(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        await stage.seconds(RENEWAL_GROUPS + 0.5)
        assert [len(calls) for calls in stage.redis.round_trips] == RENEWAL_GROUPS * [2]
        assert Counter(call.id for call in stage.redis.calls("renew")).most_common(1)[0][1] == 1

    perform(test, streams=2 * RENEWAL_GROUPS)


def test_a_renewal_names_the_claim_its_lease_and_its_lifetime(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        await stage.seconds(1.5)
        (call,) = stage.redis.calls("renew")
        assert call.args == [b"w", b"3", b"%d" % LEASE_MS, b"600"]
        expected = renew(
            stage.box.keys, DEPLOYMENT, worker="w", epoch=3, lease_ms=LEASE_MS, ttl_s=600
        )
        assert [str(each).encode() for each in expected.args] == call.args

    perform(test)


def test_a_stream_that_is_lost_to_another_worker_is_interrupted_by_its_renewal(
    perform: Perform,
) -> None:
    async def test(stage: Stage) -> None:
        lost, other = stage.boxes
        stage.redis.will_answer("renew", lost.id, FENCED)
        await stage.seconds(RENEWAL_GROUPS + 0.5)
        assert lost.lost == "another worker has claimed it, or it has ended"
        assert stage.interrupted == [lost.id]
        assert other.lost == ""
        stage.write("a", box=lost)
        await stage.publisher.drain(lost)
        assert stage.redis.calls("write") == []

    perform(test, streams=2)


def test_drain_ends_when_a_renewal_shows_that_the_claim_is_lost(perform: Perform) -> None:
    """Redis takes no writes at that time, so no reply to a write would show it."""

    async def test(stage: Stage) -> None:
        stage.redis.will_answer("write", stage.box.id, *1_000 * [FULL])
        stage.redis.will_answer("renew", stage.box.id, FENCED)
        stage.write("a")
        await stage.publisher.drain(stage.box)
        assert stage.box.lost == "another worker has claimed it, or it has ended"
        assert len(stage.redis.calls("renew")) == 1

    perform(test)


def test_a_reason_for_a_loss_that_is_known_already_is_kept(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.box.lost = "its record has expired or was deleted"
        stage.redis.will_answer("renew", stage.box.id, FENCED)
        await stage.seconds(RENEWAL_GROUPS)
        assert stage.box.lost == "its record has expired or was deleted"

    perform(test)


def test_a_cancel_request_in_the_reply_to_a_renewal_interrupts_the_stream(
    perform: Perform,
) -> None:
    async def test(stage: Stage) -> None:
        canceled, _ = stage.boxes
        stage.redis.will_answer("renew", canceled.id, renewed(10, b"alice"), renewed(10))
        await stage.seconds(RENEWAL_GROUPS + 0.5)
        assert stage.interrupted == [canceled.id]
        await stage.seconds(RENEWAL_GROUPS)
        assert [box.cancel for box in stage.boxes] == ["alice", ""]
        assert canceled.lost == ""

    perform(test, streams=2)


def test_a_cancel_flag_is_read_at_once_for_the_stream_that_it_is_about(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        canceled = stage.boxes[1]
        stage.redis.will_answer("renew", canceled.id, renewed(10, b"alice"))
        stage.publisher.check_cancel("another request")
        stage.publisher.check_cancel(canceled.id)
        await stage.seconds(0.5)  # before the first group is renewed
        assert [call.id for call in stage.redis.calls("renew")] == [canceled.id]
        assert stage.interrupted == [canceled.id]

    perform(test, streams=3)


def test_a_renewal_that_finds_the_end_of_the_log_lost_writes_it_again(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        for piece in ("a", "b"):
            stage.write(piece)
            await stage.publisher.drain(stage.box)
        stage.redis.will_answer("renew", stage.box.id, renewed(11))
        await stage.seconds(RENEWAL_GROUPS + 0.5)
        made = [(call.first, call.last) for call in stage.redis.calls("write")]
        assert made == [(11, 11), (12, 12), (12, 12)]
        assert (stage.box.acknowledged, stage.interrupted) == (True, [])

    perform(test)


def test_a_renewal_that_finds_lost_events_no_longer_in_memory_interrupts_the_stream(
    perform: Perform,
) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("renew", stage.box.id, renewed(4))
        await stage.seconds(RENEWAL_GROUPS + 0.5)
        assert "its log ends at 4" in stage.box.lost
        assert stage.interrupted == [stage.box.id]

    perform(test)


def test_a_renewal_that_was_sent_before_a_write_proves_nothing_about_the_log(
    perform: Perform,
) -> None:
    async def test(stage: Stage) -> None:
        stage.write("a")
        await stage.publisher.drain(stage.box)
        stage.redis.will_answer("renew", stage.box.id, renewed(11))
        stage.redis.latency_s = 0.5
        stage.publisher.check_cancel(stage.box.id)
        await stage.seconds(0.1)
        stage.redis.latency_s = 0.0
        stage.write("b")
        await stage.publisher.drain(stage.box)
        assert stage.box.n == 12
        await stage.seconds(0.5)  # the reply to the renewal arrives
        assert [call.first for call in stage.redis.calls("write")] == [11, 12]

    perform(test)


def test_a_renewal_that_is_fenced_after_the_last_event_was_added_is_merely_late(
    perform: Perform,
) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.latency_s = 0.5
        stage.redis.will_answer("renew", stage.box.id, FENCED)
        stage.write("a")
        stage.box.end({"state": "done"})
        stage.publisher.check_cancel(stage.box.id)
        await stage.publisher.drain(stage.box)
        await stage.seconds(0.5)
        assert (stage.box.lost, stage.box.n, stage.interrupted) == ("", 12, [])

    perform(test)


@pytest.mark.parametrize("answer", [FENCED, renewed(10, b"alice")])
def test_a_reply_for_a_stream_that_is_no_longer_watched_is_ignored(
    perform: Perform, answer: list[Any]
) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.latency_s = 0.5
        stage.redis.will_answer("renew", stage.box.id, answer)
        stage.publisher.check_cancel(stage.box.id)
        await stage.seconds(0.1)
        stage.publisher.unwatch(stage.box)
        await stage.seconds(100)
        assert (stage.box.lost, stage.box.cancel, stage.interrupted) == ("", "", [])
        assert len(stage.redis.calls("renew")) == 1

    perform(test)


@pytest.mark.parametrize("answer", [FULL, redis.ConnectionError("lost"), NEVER])
def test_a_renewal_without_an_answer_changes_nothing_and_is_repeated(
    perform: Perform, answer: Any
) -> None:
    async def test(stage: Stage) -> None:
        other = stage.boxes[1]
        stage.redis.will_answer("renew", stage.box.id, answer)
        await stage.seconds(2 * RENEWAL_GROUPS + TIMEOUT_S)
        assert [(box.lost, box.cancel) for box in stage.boxes] == 2 * [("", "")]
        assert stage.interrupted == []
        assert len(stage.redis.calls("renew", stage.box.id)) >= 2
        assert len(stage.redis.calls("renew", other.id)) >= 2
        assert stage.redis.is_idle

    perform(test, streams=2)


@pytest.mark.parametrize("odd", [RuntimeError("odd"), [], [b"ok"]])
def test_one_unexpected_failure_of_a_renewal_does_not_end_the_renewals_of_the_process(
    perform: Perform, caplog: pytest.LogCaptureFixture, odd: Any
) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("renew", stage.box.id, odd)
        await stage.seconds(3 * LEASE_S)
        for box in stage.boxes:
            assert len(stage.redis.calls("renew", box.id)) >= 3 * RENEWALS_PER_LEASE - 1
        assert stage.interrupted == []

    with caplog.at_level(logging.ERROR):
        perform(test, streams=2)
    (message,) = caplog.messages
    assert message.startswith("a renewal")


def test_a_process_that_can_renew_no_lease_ends_so_that_others_take_its_streams_over(
    perform: Perform,
) -> None:
    async def test(stage: Stage) -> None:
        for box in stage.boxes:
            stage.redis.will_answer("renew", box.id, *1_000 * [RuntimeError("odd")])
        await stage.seconds(100 * LEASE_S)
        assert stage.deaths == ["renewing leases failed 10 times in a row"]

    perform(test, streams=2)


def test_a_stream_is_written_while_a_renewal_has_no_answer(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        stage.redis.will_answer("renew", stage.box.id, NEVER)
        await stage.seconds(1.1)
        assert len(stage.redis.calls("renew")) == 1
        began = asyncio.get_running_loop().time()
        stage.redis.will_answer("write", stage.box.id, ok(11))
        stage.write("a")
        await stage.publisher.drain(stage.box)
        assert asyncio.get_running_loop().time() == began

    perform(test)


def test_streams_that_come_and_leave_keep_the_groups_even(perform: Perform) -> None:
    async def test(stage: Stage) -> None:
        for box in stage.boxes[: 2 * RENEWAL_GROUPS]:
            stage.publisher.unwatch(box)
        for _ in range(RENEWAL_GROUPS):
            stage.add_stream()
        await stage.seconds(RENEWAL_GROUPS + 0.5)
        assert [len(calls) for calls in stage.redis.round_trips] == RENEWAL_GROUPS * [2]

    perform(test, streams=3 * RENEWAL_GROUPS)
