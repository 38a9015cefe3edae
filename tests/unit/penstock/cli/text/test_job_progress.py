"""The log lines of a watched batch job."""

from dataclasses import replace

import pytest

from penstock.batches.estimates import Estimate
from penstock.batches.view import Batch
from penstock.cli.text.job_progress import LogDisplay
from penstock.cli.text.remedies import remedy
from penstock.states import State
from tests.unit.penstock.cli.text.example_jobs import (
    ALERT,
    MADE,
    PAUSED,
    batch,
    collected,
    planned,
    running,
)


def test_a_log_has_a_line_whenever_something_changes(capsys: pytest.CaptureFixture[str]) -> None:
    def said(job: Batch, estimate: Estimate | None = None) -> list[str]:
        lines.show(job, estimate)
        return capsys.readouterr().out.splitlines()

    with LogDisplay() as lines:
        assert said(batch(planned(0), planned(1))) == ["20 requests in 2 batches"]
        first = batch(running(0), planned(1))
        assert said(first, Estimate(60, 120)) == [
            "about 60 s, on a bad day 2 min left",
            "shard 0  in_progress  msgbatch_0  10 requests",
        ]
        assert said(first, Estimate(60, 120)) == []
        paused = replace(first, paused=PAUSED, alert=ALERT)
        assert said(paused, Estimate(60, 120)) == [
            f"paused  billing_error: Your credit balance is too low. ({remedy(paused)})",
            "alert  duplicate_batch: msgbatch_x may be a twin",
        ]
        assert said(replace(first, alert=ALERT), Estimate(60, 120)) == ["resumed"]
        assert said(paused)[0].startswith("paused  ")  # once more, a new line
        done = batch(collected(0), collected(1, 1), state=State.DONE, ended_at=MADE)
        assert said(done) == [
            "shard 0  collected    msgbatch_0  10 succeeded",
            "shard 1  collected    msgbatch_1  9 succeeded, 1 errored",
            "resumed",
            "done  19 succeeded, 1 errored, 0 canceled, 0 expired",
        ]
