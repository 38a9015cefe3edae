"""A small chaos run of jobs: workers are killed at random points, the API loses responses."""

from tests.chaos.batch_run import Options, run


def test_every_request_has_one_result_and_is_paid_once_although_workers_are_killed() -> None:
    options = Options(times=1, points=6, seed=20260101, workers=2, at_once=6, minutes=1.0)
    tally = run(options)
    assert not tally.faults, f"seed {options.seed}:\n" + "\n".join(tally.faults)
    assert tally.counts["workers that died"]
