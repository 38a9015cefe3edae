"""The live table of a watched batch job."""

import io
import time
from datetime import timedelta

import pytest
from rich.console import Console

from penstock.batches.estimates import Estimate
from penstock.batches.notices import Alert, PauseReason
from penstock.batches.view import Batch, Notice
from penstock.cli.text.live_table import LiveTable
from penstock.ids import new_id
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


def rendered(
    job: Batch,
    estimate: Estimate | None = None,
    *,
    width: int = 130,
    height: int = 20,
    passed_s: float = 0,
) -> list[str]:
    """Return the lines on a terminal of this size, ``passed_s`` after the estimate."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, no_color=True)
    table = LiveTable(console)
    table._job, table._estimate, table._estimated_at = job, estimate, time.monotonic() - passed_s
    with console.capture() as shown:
        console.print(table._render())
    return shown.get().splitlines()


def test_the_live_table_shows_totals_shards_and_the_remedy() -> None:
    lines = rendered(batch(collected(0), running(1), planned(2), paused=PAUSED, alert=ALERT))
    text = "\n".join(lines)
    assert "01a2-job  claude-haiku-4-5  running (paused)" in lines[0]
    assert "10/30 · 1 of 3 ended, 1 at the API" in lines[1]
    assert "✓  shard 0" in lines[2]
    assert "10/10" in lines[2]
    assert "msgbatch_0  10 succeeded" in lines[2]
    assert "0/10" in lines[3]
    assert "3 min" in lines[3]
    assert "msgbatch_1" in lines[3]
    assert "alert   duplicate_batch: msgbatch_x" in text
    assert "paused  billing_error: Your credit" in text
    assert "action  add credit or raise the spend limit, then: penstock batch resume 01a2" in text
    assert f"check   {Alert.DUPLICATE_BATCH.remedy}" in text


@pytest.mark.parametrize("reason", PauseReason)
def test_the_live_table_fits_the_terminal_whatever_the_job_is_paused_for(
    reason: PauseReason,
) -> None:
    paused = Notice(reason, "a message", MADE)
    shards = (planned(n) for n in range(500))
    job = batch(*shards, id=new_id(), paused=paused, alert=ALERT)
    for height in (12, 24, 60):
        lines = rendered(job, width=80, height=height)
        assert len(lines) <= height
        assert sum("shard " in line for line in lines) == height - 9
        assert any(f"… and {500 - (height - 9)} more" in line for line in lines)


def test_a_long_line_is_truncated_at_its_end() -> None:
    long = running(0).evolve(batch_id="msgbatch_" + "x" * 150)
    plain = rendered(batch(running(0)))[2]
    assert rendered(batch(long))[2][:60].split()[1:5] == plain[:60].split()[1:5]
    assert len(rendered(batch(long))) == len(rendered(batch(running(0))))


def test_the_live_table_shows_the_remaining_and_the_total_time() -> None:
    job, estimate = batch(running(0)), Estimate(600, 7_200)
    assert "about 10 min left (p90: 2.0 h)" in rendered(job, estimate)[1]
    assert "about 5 min left (p90: 1.9 h)" in rendered(job, estimate, passed_s=300)[1]
    assert rendered(job, Estimate(600, 610))[1].endswith("about 10 min left")
    assert "· up to 1.8 h left" in rendered(job, estimate, passed_s=700)[1]
    assert "left" not in rendered(job, estimate, passed_s=7_300)[1]
    assert "left" not in rendered(batch(running(0)))[1]
    ended = batch(collected(0), state=State.DONE, ended_at=MADE + timedelta(minutes=7))
    assert "took 7 min" in rendered(ended)[1]
