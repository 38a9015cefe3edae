"""Ids: UUIDv7 that sort by time, and no other text."""

import time
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.ids import is_id, new_id


def test_a_new_id_is_a_uuid_of_version_7_and_the_rfc_variant() -> None:
    for _ in range(200):
        parsed = UUID(new_id())
        assert parsed.version == 7
        assert parsed.variant == "specified in RFC 4122"


def test_an_id_begins_with_the_milliseconds_of_its_creation() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(new_id()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_ids_of_the_same_millisecond_differ() -> None:
    assert len({new_id() for _ in range(5_000)}) == 5_000


def test_a_later_id_sorts_after_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1, 255, 256, 2**32, 1_700_000_000_000, 2**48 - 1):
        monkeypatch.setattr(time, "time_ns", lambda ms=milliseconds: ms * 1_000_000)
        made.append(new_id())
    assert made == sorted(made)
    assert all(is_id(id) for id in made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not-an-id",
        "0190a5b0-0000-7000-8000-00000000000",  # one digit short
        "0190a5b0-0000-7000-8000-0000000000000",  # one too many
        "0190A5B0-0000-7000-8000-000000000000",  # upper case would be another key
        "0190a5b0-0000-7000-8000-000000000000\n",
        " 0190a5b0-0000-7000-8000-000000000000",
        "0190a5b0-0000-7000-8000-00000000000\u0661",  # a digit, but not ours
        "0190a5b0-0000-7000-8000-00000000000*",  # a pattern
        "{0190a5b0-0000-7000-8000-000000000000}",
        "0190a5b000007000800000000000000000000",
    ],
)
def test_text_that_is_not_an_id_is_refused(text: str) -> None:
    assert not is_id(text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_only_the_canonical_form_of_a_uuid_is_an_id(text: str) -> None:
    if is_id(text):
        assert str(UUID(text)) == text
