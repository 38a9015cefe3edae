"""How long a response can be continued, and by how many requests."""

from typing import Any

import pytest

from penstock.simulator.errors import ApiError
from penstock.simulator.messages.threads import LIFE_S, Threads

CREATE: Any = {"model": "claude-opus-5-5", "thread": {"type": "create"}}
CONTINUE: Any = {
    "model": "claude-opus-5-5",
    "thread": {"type": "continue", "previous_message_id": "msg_1"},
}


@pytest.fixture
def threads() -> Threads:
    """Threads with one response, of time 0."""
    found = Threads()
    found.begin(CREATE, 0)
    found.end(CREATE, "msg_1", 0)
    return found


def code(threads: Threads, body: Any, now: float) -> str | None:
    """The code of the error that a request gets."""
    with pytest.raises(ApiError) as rejected:
        threads.begin(body, now)
    return rejected.value.error_code


def test_a_response_can_be_continued_for_five_minutes(threads: Threads) -> None:
    assert code(threads, CONTINUE, LIFE_S) == "thread_not_found"
    threads.begin(CONTINUE, LIFE_S - 1)


def test_a_second_continuation_is_rejected_during_the_first_and_after_it(threads: Threads) -> None:
    threads.begin(CONTINUE, 1)
    assert code(threads, CONTINUE, 2) == "thread_continue_in_flight"
    threads.end(CONTINUE, None, 3)
    assert code(threads, CONTINUE, 4) == "thread_already_continued"


@pytest.mark.parametrize("thread", ["create", {}, {"type": "continue"}, {"type": ["create"]}])
def test_a_thread_of_another_form_is_rejected(threads: Threads, thread: Any) -> None:
    assert code(threads, {"thread": thread}, 0) is None


def test_a_request_without_a_thread_is_none_of_its_concern(threads: Threads) -> None:
    threads.begin({}, 0)
    threads.end({}, "msg_2", 0)
    assert code(threads, CONTINUE, LIFE_S) == "thread_not_found"
