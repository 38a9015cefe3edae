"""How the command line words its numbers."""

import io

import pytest

from penstock.batches.shard import Counts
from penstock.cli.text.output import (
    cost_summary,
    duration,
    outcome_counts,
    quantity,
    rough_duration,
    styled,
    summary,
    write_line,
)


@pytest.mark.parametrize(
    ("milliseconds", "told"),
    [(0, "0 ms"), (38, "38 ms"), (999, "999 ms"), (1240, "1.24 s"), (185_000, "3 min 05 s")],
)
def test_a_duration_has_the_unit_that_suits_it(milliseconds: float, told: str) -> None:
    assert duration(milliseconds) == told


def test_a_duration_never_reaches_sixty_seconds() -> None:
    assert duration(119_900) == "2 min 00 s"
    assert duration(59_999) == "1 min 00 s"


def test_a_summary_tells_tokens_and_times() -> None:
    end = {
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 25, "output_tokens": 48},
        "first_delta_ms": 38,
        "total_ms": 1240,
    }
    assert summary("R", end) == "id R · 25 in, 48 out · first delta 38 ms · total 1.24 s"


def test_a_summary_tells_why_an_answer_is_shorter_than_it_would_be() -> None:
    assert summary("R", {"stop_reason": "max_tokens"}) == "id R · stopped by max_tokens"


def test_a_summary_leaves_out_what_is_not_known() -> None:
    assert summary("R", {"first_delta_ms": None, "usage": {}}) == "id R"


def test_the_outcome_names_all_four_ends() -> None:
    counts = Counts(succeeded=291, errored=5, expired=4)
    assert outcome_counts(counts) == "291 succeeded, 5 errored, 0 canceled, 4 expired"


def test_requests_that_are_under_way_are_told_first() -> None:
    assert outcome_counts(Counts(processing=3)) == "3 processing"
    assert outcome_counts(Counts(processing=3, succeeded=1)).startswith("3 processing, 1 succeeded")


def test_the_price_is_told_beside_the_live_one() -> None:
    cost = {"currency": "USD", "batch": 0.25, "live": 0.5}
    assert cost_summary(cost) == "0.2500 USD; live it would be 0.5000 (50% saved)"


def test_a_price_of_nothing_and_an_unknown_one_can_be_told() -> None:
    assert cost_summary({"currency": "USD", "batch": 0.0, "live": 0.0}).startswith("0.0000 USD")
    assert cost_summary(None) == "unknown: no price is known for this model"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5_399, "90 min"),
        (5_400, "1.5 h"),
        (10**6, "11.6 days"),
    ],
)
def test_a_span_is_as_rough_as_what_is_known(seconds: float, told: str) -> None:
    assert rough_duration(seconds) == told


def test_numbers_are_told_with_what_they_count() -> None:
    assert [quantity(n, "request") for n in (0, 1, 1_000)] == [
        "0 requests",
        "1 request",
        "1,000 requests",
    ]
    assert quantity(2, "batch", "batches") == "2 batches"
    assert outcome_counts(Counts(succeeded=1_000_000)).startswith("1,000,000 succeeded")


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("x", io.StringIO(), bold=True) == "x"
    assert styled("x", Terminal(), bold=True) != "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("x", Terminal(), bold=True) == "x"


def test_a_line_of_payload_is_written_byte_by_byte() -> None:
    file = io.BytesIO()
    write_line(b'{"t":"a\xe2\x80\xa8b"}', file)
    assert file.getvalue() == b'{"t":"a\xe2\x80\xa8b"}\n'
