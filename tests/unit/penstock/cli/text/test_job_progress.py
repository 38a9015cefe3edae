"""The log lines of a watched batch job."""

from dataclasses import replace

import pytest

from penstock.batches.estimates import Estimate
from penstock.batches.notices import Alert
from penstock.batches.view import Batch
from penstock.cli.text.job_progress import LogDisplay
from penstock.cli.text.remedies import pause_remedy
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


def test_the_log_has_a_line_for_every_change(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(job: Batch, estimate: Estimate | None = None) -> list[str]:
        display.show(job, estimate)
        return capsys.readouterr().out.splitlines()

    with LogDisplay() as display:
        assert printed(batch(planned(0), planned(1))) == ["20 requests in 2 batches"]
        first = batch(running(0), planned(1))
        assert printed(first, Estimate(60, 120)) == [
            "remaining: about 60 s (p90: 2 min)",
            "shard 0  in_progress  msgbatch_0  10 requests",
        ]
        assert printed(first, Estimate(60, 120)) == []
        paused = replace(first, paused=PAUSED, alert=ALERT)
        assert printed(paused, Estimate(60, 120)) == [
            f"paused  billing_error: Your credit balance is too low. ({pause_remedy(paused)})",
            f"alert  duplicate_batch: {ALERT.message} ({Alert.DUPLICATE_BATCH.remedy})",
        ]
        assert printed(replace(first, alert=ALERT), Estimate(60, 120)) == ["resumed"]
        assert printed(paused)[0].startswith("paused  ")  # a second pause is printed again
        done = batch(collected(0), collected(1, 1), state=State.DONE, ended_at=MADE)
        assert printed(done) == [
            "shard 0  collected    msgbatch_0  10 succeeded",
            "shard 1  collected    msgbatch_1  9 succeeded, 1 errored",
            "resumed",
            "done  19 succeeded, 1 errored, 0 canceled, 0 expired",
        ]
