"""What the command line says about batch jobs: facts, tables, lines of a log."""

import io
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from penstock.batches.estimates import Estimate
from penstock.batches.shard import Counts, Shard
from penstock.batches.view import Batch, Budget, Notice, Progress
from penstock.cli.text.job_fields import job_fields, most_relevant, shard_line, shard_table
from penstock.cli.text.job_progress import LogDisplay
from penstock.cli.text.live_table import LiveTable
from penstock.cli.text.output import cost_summary
from penstock.cli.text.remedies import REMEDIES, remedy
from penstock.clock import now_ms
from penstock.states import State

MADE = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
PAUSED = Notice("billing_error", "Your credit balance\nis too low.", MADE)
ALERT = Notice("duplicate_batch", "msgbatch_x may be a twin", MADE)


def planned(number: int, requests: int = 10) -> Shard:
    return Shard(number=number, requests=requests, counts=Counts(processing=requests))


def running(number: int, **fields: Any) -> Shard:
    sent = {"batch_id": f"msgbatch_{number}", "created_ms": now_ms() - 180_000}
    return planned(number).evolve(state="in_progress", **sent, **fields)


def collected(number: int, errored: int = 0, **fields: Any) -> Shard:
    counts = Counts(succeeded=10 - errored, errored=errored)
    return running(number).evolve(state="collected", counts=counts, **fields)


def batch(*shards: Shard, **fields: Any) -> Batch:
    counts = sum(
        (s.counts if s.state == "collected" else Counts(processing=s.requests) for s in shards),
        Counts(),
    )
    known: dict[str, Any] = {
        "id": "01a2-job",
        "processing_status": "in_progress",
        "request_counts": counts,
        "created_at": MADE,
        "ended_at": None,
        "cancel_initiated_at": None,
        "state": State.RUNNING,
        "cancel_initiated": False,
        "paused": None,
        "alert": None,
        "waiting_for_canary": False,
        "model": "claude-haiku-4-5",
        "progress": Progress.of(shards),
        "shards": shards,
        "usage": {},
        "usage_by_model": {},
        "cost": None,
        "budget": None,
        "error": None,
    }
    return Batch(**{**known, **fields})


def told(job: Batch, estimate: Estimate | None = None) -> dict[str, str]:
    return dict(job_fields(job, estimate))


def test_a_running_job_tells_how_far_it_is() -> None:
    job = batch(collected(0), running(1), planned(2), usage={"input_tokens": 12_345})
    said = told(job, Estimate(120.0, 7_200.0))
    assert said["state"] == "running"
    assert said["requests"].startswith("30: 20 processing, 10 succeeded, 0 errored")
    assert said["batches"] == "1 of 3 ended, 1 at the API"
    assert said["left"] == "about 2 min, on a bad day 2.0 h"
    assert told(job, Estimate(120.0, 130.0))["left"] == "about 2 min"
    assert said["tokens"] == "12,345 input_tokens"
    assert not {"paused", "alert", "cost", "ended", "error", "money cap"} & said.keys()


def test_a_paused_job_tells_why_and_what_to_do() -> None:
    said = told(batch(planned(0), paused=PAUSED, alert=ALERT, waiting_for_canary=True))
    assert said["state"] == "running (paused)"
    assert said["paused"].startswith("billing_error: Your credit balance is too low. (since 2026-")
    assert said["to do"] == "add credit to the account, then: penstock batch resume 01a2-job"
    assert said["alert"].startswith("duplicate_batch: msgbatch_x may be a twin (since ")


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("cost_limit", "penstock batch resume 01a2-job --max-cost USD"),
        ("requests_missing", "penstock batch cancel 01a2-job"),
        ("something_new", "put it right, then: penstock batch resume 01a2-job"),
        *((each, "01a2-job") for each in REMEDIES if each not in ("cost_limit",)),
    ],
)
def test_every_pause_has_a_remedy(kind: str, ends: str) -> None:
    line = remedy(batch(paused=replace(PAUSED, type=kind)))
    assert line.endswith(ends)
    assert "\n" not in line


def test_a_job_that_has_ended_tells_what_it_cost() -> None:
    cost = {"currency": "USD", "batch": 1.0, "live": 2.0}
    job = batch(
        collected(0), state=State.FAILED, cost=cost, ended_at=MADE, error={"type": "x"},
        budget=Budget(5.0, 1.0, 0.5),
    )  # fmt: skip
    said = told(job)
    assert said["cost"] == "1.00 USD; live it would be 2.00 (50% saved)"
    assert cost_summary({"currency": "USD", "batch": 0.0, "live": 0.0}) == "0.0000 USD"
    assert said["money cap"] == "5.00 USD: 1.00 spent, up to 0.5000 under way"
    assert said["error"] == "x: no message"
    assert "ended" in said


def test_a_job_tells_what_it_waits_for() -> None:
    assert told(batch(planned(0), waiting_for_canary=True))["state"] == "running (its canary first)"
    canceling = batch(running(0), processing_status="canceling", paused=None)
    assert told(canceling)["state"] == "running (cancel asked for)"
    again = batch(collected(0, retried=3), running(100, round=1))
    assert told(again)["batches"] == "1 of 2 ended, 1 at the API, retried up to 1 time"


def test_a_shard_is_one_line() -> None:
    assert shard_line(planned(0)) == "shard 0  planned      10 requests"
    assert shard_line(running(3)) == "shard 3  in_progress  msgbatch_3  10 requests"
    said = shard_line(collected(3, 2, retried=4, round=1))
    assert said == (
        "shard 3  collected    msgbatch_3  8 succeeded, 2 errored; 4 tried again; round 2"
    )
    assert shard_line(running(1, failures=2)).endswith("msgbatch_1  refused 2 times in a row")
    moved = collected(0, retried=10).evolve(counts=Counts())
    assert shard_line(moved).endswith("msgbatch_0  10 tried again")


def test_what_is_interesting_is_shown_first() -> None:
    shards = [
        *(collected(n, collected_ms=n) for n in range(50)),
        collected(50, 1),
        running(51),
        running(52, failures=1),
        *(planned(n) for n in range(53, 100)),
    ]
    assert [s.number for s in most_relevant(shards, 1)] == [52]
    assert [s.number for s in most_relevant(shards, 3)] == [50, 51, 52]
    assert [s.number for s in most_relevant(shards, 5)] == [50, 51, 52, 53, 54]
    assert [s.number for s in most_relevant(shards, 51)] == [49, *range(50, 100)]
    assert most_relevant(shards, 0) == []
    assert most_relevant(shards, 100) == shards


def test_the_table_says_how_many_shards_it_leaves_out() -> None:
    job = batch(*(planned(n) for n in range(30)))
    lines = list(shard_table(job))
    assert len(lines) == 22
    assert lines[-1].endswith("… and 10 more (--all)")
    assert len(list(shard_table(job, rows=None))) == 31
    assert lines[1].split() == ["0", "planned", "10", "-"]


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
