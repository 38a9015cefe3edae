"""A small chaos run: forty streams, every kind of fault, each reader checked exactly."""

from tests.chaos.run import Options, run


def test_no_event_is_lost_or_doubled_and_no_stream_hangs_under_chaos() -> None:
    options = Options(
        streams=40, seed=20260101, minutes=1.0, workers=2, at_once=20, every_s=1.0, timeout_s=60.0
    )
    tally = run(options)
    assert not tally.faults, f"seed {options.seed}:\n" + "\n".join(tally.faults)
    assert tally.counts["streams"] == options.streams
    assert tally.counts["readers"] == options.streams * options.readers
