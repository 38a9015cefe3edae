"""A small run of the batch chaos: workers die at points drawn at random, the API loses answers."""

from tests.chaos.batch_run import Options, run


def test_every_line_comes_once_and_is_paid_once_whatever_kills_the_workers() -> None:
    options = Options(times=1, points=6, seed=20260101, workers=2, at_once=6, minutes=1.0)
    tally = run(options)
    assert not tally.faults, f"seed {options.seed}:\n" + "\n".join(tally.faults)
    assert tally.counts["workers that died"]
