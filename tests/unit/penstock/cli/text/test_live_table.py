"""The live table of a watched batch job."""

import io
import time
from datetime import timedelta

from rich.console import Console

from penstock.batches.estimates import Estimate
from penstock.batches.view import Batch
from penstock.cli.text.live_table import LiveTable
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


def drawn(
    job: Batch, estimate: Estimate | None = None, *, height: int = 20, passed_s: float = 0
) -> list[str]:
    """What a terminal of this height shows, so long after the estimate."""
    file = io.StringIO()
    console = Console(file=file, width=130, height=height, force_terminal=True, no_color=True)
    view = LiveTable(console)
    view._job, view._estimate, view._estimated_at = job, estimate, time.monotonic() - passed_s
    with console.capture() as shown:
        console.print(view._drawn())
    return shown.get().splitlines()


def test_a_terminal_shows_totals_shards_and_what_to_do() -> None:
    lines = drawn(batch(collected(0), running(1), planned(2), paused=PAUSED, alert=ALERT))
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
    assert "to do   add credit to the account, then: penstock batch resume 01a2-job" in text


def test_a_terminal_never_gets_more_lines_than_it_has() -> None:
    job = batch(*(planned(n) for n in range(500)), paused=PAUSED, alert=ALERT)
    for height in (12, 24, 60):
        lines = drawn(job, height=height)
        assert len(lines) <= height
        assert sum("shard " in line for line in lines) == height - 8
        assert any(f"… and {500 - (height - 8)} more" in line for line in lines)


def test_a_long_line_is_cut_at_its_end_alone() -> None:
    long = running(0).evolve(batch_id="msgbatch_" + "x" * 150)
    plain = drawn(batch(running(0)))[2]
    assert drawn(batch(long))[2][:60].split()[1:5] == plain[:60].split()[1:5]
    assert len(drawn(batch(long))) == len(drawn(batch(running(0))))


def test_a_terminal_shows_the_time_that_is_left_and_the_time_it_took() -> None:
    job, estimate = batch(running(0)), Estimate(600, 7_200)
    assert "about 10 min left (bad day: 2.0 h)" in drawn(job, estimate)[1]
    assert "about 5 min left (bad day: 1.9 h)" in drawn(job, estimate, passed_s=300)[1]
    assert drawn(job, Estimate(600, 610))[1].endswith("about 10 min left")
    assert "· up to 1.8 h left" in drawn(job, estimate, passed_s=700)[1]
    assert "left" not in drawn(job, estimate, passed_s=7_300)[1]
    assert "left" not in drawn(batch(running(0)))[1]
    ended = batch(collected(0), state=State.DONE, ended_at=MADE + timedelta(minutes=7))
    assert "took 7 min" in drawn(ended)[1]
