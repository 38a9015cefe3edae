"""A small soak: sixty streams, a third of them malformed, on two workers."""

from tests.chaos.malformed_run import Options, run_streams


def test_malformed_streams_harm_no_other_stream_and_cost_a_bounded_number_of_calls() -> None:
    options = Options(
        streams=60, share=3, seed=20260101, minutes=1.0, at_once=30, readers=2, timeout_s=60.0
    )
    tally = run_streams(options)
    assert not tally.faults, f"seed {options.seed}:\n" + "\n".join(tally.faults)
    assert tally.counts["streams"] == options.streams
    assert tally.counts["malformed streams"] > options.streams // 6
