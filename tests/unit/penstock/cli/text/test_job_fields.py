"""The fields of a batch job that the command line shows."""

from dataclasses import replace

import pytest

from penstock.batches.estimates import Estimate
from penstock.batches.view import Batch, Budget
from penstock.cli.text.job_fields import job_fields
from penstock.cli.text.output import cost_summary
from penstock.cli.text.remedies import REMEDIES, remedy
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
