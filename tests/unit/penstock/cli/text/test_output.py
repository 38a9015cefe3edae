"""The wording of numbers and the printing of lines."""

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
    ("milliseconds", "text"),
    [(0, "0 ms"), (38, "38 ms"), (999, "999 ms"), (1240, "1.24 s"), (185_000, "3 min 05 s")],
)
def test_a_duration_has_a_suitable_unit(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


def test_a_duration_of_sixty_seconds_is_one_minute() -> None:
    assert duration(119_900) == "2 min 00 s"
    assert duration(59_999) == "1 min 00 s"


def test_a_summary_has_tokens_and_timings() -> None:
    end = {
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 25, "output_tokens": 48},
        "first_delta_ms": 38,
        "total_ms": 1240,
    }
    assert summary("R", end) == "id R · 25 tokens in, 48 out · first delta 38 ms · total 1.24 s"


def test_a_summary_marks_estimated_tokens() -> None:
    end = {"usage": {"input_tokens": 25, "output_tokens": 48}, "usage_estimated": True}
    assert summary("R", end) == "id R · 25 tokens in, 48 out (estimated)"


def test_a_summary_names_the_stop_reason_of_a_truncated_answer() -> None:
    assert summary("R", {"stop_reason": "max_tokens"}) == "id R · stop reason max_tokens"


def test_a_summary_omits_unknown_values() -> None:
    assert summary("R", {"first_delta_ms": None, "usage": {}}) == "id R"


def test_the_summary_of_a_simulated_answer_says_so() -> None:
    assert summary("R", {"simulated": True}) == "id R · simulated: invented by the API simulator"


def test_the_outcome_counts_name_all_four_final_states() -> None:
    counts = Counts(succeeded=291, errored=5, expired=4)
    assert outcome_counts(counts) == "291 succeeded, 5 errored, 0 canceled, 4 expired"


def test_the_outcome_counts_begin_with_requests_in_progress() -> None:
    assert outcome_counts(Counts(processing=3)) == "3 processing"
    assert outcome_counts(Counts(processing=3, succeeded=1)).startswith("3 processing, 1 succeeded")


def test_the_cost_is_compared_with_live_calls() -> None:
    cost = {"currency": "USD", "batch": 0.25, "live": 0.5}
    assert cost_summary(cost) == "0.2500 USD (50% less than 0.5000 for live calls)"


def test_the_cost_of_live_calls_alone_is_not_compared() -> None:
    cost = {"currency": "USD", "batch": 0.5, "live": 0.5, "estimated": 0.0, "excludes": []}
    assert cost_summary(cost) == "0.5000 USD"


def test_what_a_cost_estimates_and_excludes_is_shown() -> None:
    cost = {"currency": "USD", "batch": 0.5, "live": 0.5, "estimated": 0.1}
    assert cost_summary({**cost, "excludes": ["inference_geo", "speed"]}) == (
        "0.5000 USD, of which up to 0.1000 for calls without an answer, "
        "without inference_geo, speed"
    )


def test_a_cost_of_zero_and_an_unknown_cost_have_texts() -> None:
    assert cost_summary({"currency": "USD", "batch": 0.0, "live": 0.0}).startswith("0.0000 USD")
    assert cost_summary(None) == "unknown (no price is known for this model)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5_399, "90 min"),
        (5_400, "1.5 h"),
        (10**6, "11.6 days"),
    ],
)
def test_a_rough_duration_is_rounded(seconds: float, text: str) -> None:
    assert rough_duration(seconds) == text


def test_a_quantity_has_a_singular_and_a_plural() -> None:
    assert [quantity(n, "request") for n in (0, 1, 1_000)] == [
        "0 requests",
        "1 request",
        "1,000 requests",
    ]
    assert quantity(2, "batch", "batches") == "2 batches"
    assert outcome_counts(Counts(succeeded=1_000_000)).startswith("1,000,000 succeeded")


def test_colors_are_used_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("x", io.StringIO(), bold=True) == "x"
    assert styled("x", Terminal(), bold=True) != "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("x", Terminal(), bold=True) == "x"


def test_a_result_line_is_written_byte_for_byte() -> None:
    file = io.BytesIO()
    write_line(b'{"t":"a\xe2\x80\xa8b"}', file)
    assert file.getvalue() == b'{"t":"a\xe2\x80\xa8b"}\n'
