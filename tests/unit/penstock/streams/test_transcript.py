"""Transcript: how a stream ended, and which of its events were read."""

from typing import Any

import pytest

from penstock.errors import RequestCanceled, RequestFailed
from penstock.events import END, REWIND, SNAPSHOT, Event
from penstock.streams.transcript import Coverage, Transcript


def transcript(*happened: dict[str, Any], first: int = 1) -> Transcript:
    made = Transcript()
    for n, data in enumerate(happened, first):
        made.apply(Event(1, n, data))
    return made


def test_an_answer_that_runs_or_is_done_raises_nothing() -> None:
    transcript().raise_unless_done("")
    transcript({"type": END, "state": "done"}).raise_unless_done("")


def test_an_answer_that_failed_or_was_canceled_raises_with_its_text() -> None:
    with pytest.raises(RequestCanceled) as canceled:
        transcript({"type": END, "state": "canceled", "by": "me"}).raise_unless_done("so far")
    assert canceled.value.text == "so far"
    with pytest.raises(RequestFailed):
        transcript({"type": END, "state": "failed"}).raise_unless_done("so far")


@pytest.mark.parametrize(("first", "coverage"), [(0, Coverage.FULL), (5, Coverage.TEXT)])
def test_only_a_rewind_to_the_beginning_is_followed_by_every_event(
    first: int, coverage: Coverage
) -> None:
    rewind = {"type": REWIND, "index": 0, "offset": 0}
    made = transcript({"type": SNAPSHOT, "text": "a"}, first=4)
    made.apply(Event(1, first, rewind))
    assert made.coverage is coverage
