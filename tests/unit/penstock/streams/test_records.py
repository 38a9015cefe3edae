"""RequestOptions: what a producer may request besides the Messages body."""

from enum import IntEnum
from typing import Any

import orjson
import pytest

from penstock.errors import InvalidRequest
from penstock.store.record import DEFAULT_PRIORITY
from penstock.streams.records import RequestOptions
from tasks.streams.continuation import OnInterrupt


def refusal(**options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        RequestOptions(**options)
    return caught.value


def test_the_default_options_are_the_common_ones() -> None:
    assert RequestOptions().fields() == {"priority": DEFAULT_PRIORITY, "on_interrupt": "continue"}


@pytest.mark.parametrize("priority", range(10))
def test_every_priority_from_0_to_9_is_recorded(priority: int) -> None:
    assert RequestOptions(priority=priority).fields()["priority"] == priority


@pytest.mark.parametrize("priority", [-1, 10, 255, 3.5, "3", None])
def test_other_priorities_are_refused(priority: Any) -> None:
    assert refusal(priority=priority).field == "priority"


@pytest.mark.parametrize("on_interrupt", list(OnInterrupt))
def test_every_on_interrupt_that_workers_know_can_be_requested(on_interrupt: OnInterrupt) -> None:
    assert RequestOptions(on_interrupt=on_interrupt).fields()["on_interrupt"] == on_interrupt.value


@pytest.mark.parametrize("on_interrupt", ["", "retry", "Continue", None])
def test_an_unknown_on_interrupt_is_refused(on_interrupt: Any) -> None:
    error = refusal(on_interrupt=on_interrupt)
    assert error.field == "on_interrupt"
    for known in OnInterrupt:
        assert f"'{known}'" in str(error)


@pytest.mark.parametrize("seconds", [0.001, 1, 2.5, 86_400])
def test_a_deadline_is_given_from_the_time_at_which_it_is_recorded(seconds: float) -> None:
    fields = RequestOptions(deadline_s=seconds).fields()
    assert fields["deadline_ms"] == int(seconds * 1000)


@pytest.mark.parametrize("seconds", [0, -1, -0.5, float("inf"), float("nan")])
def test_an_invalid_deadline_is_refused(seconds: float) -> None:
    assert refusal(deadline_s=seconds).field == "deadline"


@pytest.mark.parametrize(
    "name", ["anthropic-beta", "anthropic-version", "Anthropic-Beta", "ANTHROPIC-NEW-1"]
)
def test_headers_of_the_api_are_recorded_unchanged(name: str) -> None:
    stored = RequestOptions(headers={name: "a,b"}).fields()["headers"]
    assert orjson.loads(str(stored)) == {name: "a,b"}


@pytest.mark.parametrize(
    "name",
    [
        "x-api-key",
        "X-Api-Key",
        "authorization",
        "cookie",
        "host",
        "x-anthropic-beta",
        "anthropic",
        "anthropic-",
        "",
        "anthropic-beta: x\r\nx-api-key",
        "anthropic-beta ",
    ],
)
def test_any_other_header_is_refused_without_repeating_its_value(name: str) -> None:
    """It might be a key, and errors are logged."""
    error = refusal(headers={"anthropic-beta": "a", name: "sk-secret"})
    assert error.field == f"extra_headers.{name}"
    assert "sk-secret" not in str(error)


@pytest.mark.parametrize("value", [5, None, b"a", "a\r\nx-api-key: b", "a\nb", "é"])
def test_a_header_that_cannot_be_sent_is_refused_at_enqueue(value: Any) -> None:
    error = refusal(headers={"anthropic-beta": value})
    assert error.field == "extra_headers.anthropic-beta"
    assert "\n" not in str(error)


def test_bare_text_is_recorded_only_if_it_was_requested() -> None:
    assert RequestOptions(typed=True).fields()["typed"] == 1
    assert "typed" not in RequestOptions().fields()


class _Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize("priority", [True, False, _Level.HIGH, 3.0, "3", None, -1, 10, 10**40])
def test_a_priority_that_redis_cannot_store_is_refused(priority: Any) -> None:
    with pytest.raises(InvalidRequest, match="priority: must be 0"):
        RequestOptions(priority=priority)
