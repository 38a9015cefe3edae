"""The life of a batch, with the time as an argument."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.simulator.batches.store import Batch, BatchStore, Outcome, PackedLines, scattered

no_deadline = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

START = datetime(2026, 11, 23, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A time after the start."""
    return START + timedelta(seconds=seconds)


def batch(outcomes: bytes = bytes(8), name: str = "msgbatch_1", seconds: float = 8) -> Batch:
    """A batch that takes a second a line."""
    return Batch(
        id=name,
        created_at=START,
        custom_ids=PackedLines(b"%d" % i for i in range(len(outcomes))),
        lines=PackedLines(),
        outcomes=bytearray(outcomes),
        version="2026-10-21",
        ends_at=at(seconds),
    )


def test_a_batch_ends_when_it_is_due() -> None:
    """Until then all requests are processing, whatever their outcome."""
    found = batch(bytes([Outcome.ERRORED, Outcome.EXPIRED, 0, 0]))
    found.advance(at(7))
    shown = found.as_dict("http://x")
    assert (shown["processing_status"], shown["results_url"]) == ("in_progress", None)
    assert shown["request_counts"]["processing"] == 4
    assert sum(shown["request_counts"].values()) == 4
    found.advance(at(9))
    shown = found.as_dict("http://x")
    assert shown["processing_status"] == "ended"
    assert shown["ended_at"] == "2026-11-23T00:00:08.000000Z"
    assert shown["expires_at"] == "2026-11-24T00:00:00.000000Z"
    assert shown["results_url"] == "http://x/v1/messages/batches/msgbatch_1/results"
    counts = {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 1}
    assert shown["request_counts"] == counts


@pytest.mark.parametrize(("when", "succeeded"), [(0, 2), (4, 4), (7.9, 7)])
def test_a_canceled_batch_keeps_at_least_a_quarter_of_its_results(
    when: float, succeeded: int
) -> None:
    """The others are canceled when it ends."""
    found = batch()
    found.cancel(at(when))
    assert found.status == "canceling"
    found.advance(at(8))
    assert found.counts == {Outcome.SUCCEEDED: succeeded, Outcome.CANCELED: 8 - succeeded}


def test_a_held_batch_is_in_progress_until_it_is_canceled() -> None:
    """However long it is held."""
    found = batch()
    found.held = True
    found.advance(at(1000))
    assert found.status == "in_progress"
    found.cancel(at(1000))
    found.advance(at(1000))
    assert found.status == "ended"
    assert found.counts[Outcome.CANCELED] == 6


def test_an_archived_batch_has_no_results_url() -> None:
    """It is still shown."""
    found = batch()
    found.end(at(1))
    found.archived_at = at(2)
    assert found.as_dict("http://x")["results_url"] is None
    assert found.as_dict("http://x")["archived_at"]


@no_deadline
@given(st.integers(1, 3000))
def test_results_are_not_in_the_order_of_the_requests(count: int) -> None:
    """Each line comes once."""
    order = list(scattered(count))
    assert sorted(order) == list(range(count))
    assert count == 1 or order != sorted(order)


@no_deadline
@given(st.lists(st.binary()))
def test_packed_lines_return_the_bytes_they_were_given(lines: list[bytes]) -> None:
    """Although they share one piece of memory."""
    kept = PackedLines(lines)
    assert [kept[i] for i in range(len(kept))] == lines


def page(store: BatchStore, **cursor: str) -> tuple[list[str], bool] | None:
    """The ids of a page of two."""
    found = store.page(
        START, limit=2, after_id=cursor.get("after_id"), before_id=cursor.get("before_id")
    )
    return found and ([each.id for each in found[0]], found[1])


def test_pages_of_batches_go_in_both_directions() -> None:
    """A cursor is not part of its page; ``more`` is about the page's direction."""
    store = BatchStore()
    for name in "abcde":
        store.add(batch(name=name))
    assert page(store) == (["e", "d"], True)
    assert page(store, after_id="d") == (["c", "b"], True)
    assert page(store, after_id="b") == (["a"], False)
    assert page(store, before_id="b") == (["d", "c"], True)
    assert page(store, before_id="d") == (["e"], False)
    assert page(store, after_id="x") is None


def test_a_deleted_batch_is_not_found() -> None:
    """It stays deleted."""
    store = BatchStore()
    store.add(batch())
    store.delete("msgbatch_1")
    assert store.get("msgbatch_1", START) is None
