"""The fields of a batch job that the command line shows."""

from dataclasses import replace

import pytest

from penstock.batches.estimates import Estimate
from penstock.batches.notices import Alert, PauseReason
from penstock.batches.view import Batch, Budget
from penstock.cli.text.job_fields import job_fields
from penstock.cli.text.output import cost_summary
from penstock.cli.text.remedies import alert_remedy, pause_remedy
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


def fields(job: Batch, estimate: Estimate | None = None) -> dict[str, str]:
    return dict(job_fields(job, estimate))


def test_a_running_job_shows_its_progress() -> None:
    job = batch(collected(0), running(1), planned(2), usage={"input_tokens": 12_345})
    shown = fields(job, Estimate(120.0, 7_200.0))
    assert shown["state"] == "running"
    assert shown["requests"].startswith("30: 20 processing, 10 succeeded, 0 errored")
    assert shown["batches"] == "1 of 3 ended, 1 at the API"
    assert shown["remaining"] == "about 2 min (p90: 2.0 h)"
    assert fields(job, Estimate(120.0, 130.0))["remaining"] == "about 2 min"
    assert shown["tokens"] == "12,345 input_tokens"
    assert not {"paused", "alert", "cost", "ended", "error", "cost cap"} & shown.keys()


def test_a_paused_job_shows_its_reason_and_remedy() -> None:
    shown = fields(batch(planned(0), paused=PAUSED, alert=ALERT, waiting_for_canary=True))
    assert shown["state"] == "running (paused)"
    assert shown["paused"].startswith("billing_error: Your credit balance is too low. (since 2026-")
    assert shown["action"] == (
        "add credit or raise the spend limit, then: penstock batch resume 01a2-job"
    )
    assert shown["alert"].startswith("duplicate_batch: msgbatch_x may be a duplicate (since ")
    assert shown["check"] == Alert.DUPLICATE_BATCH.remedy


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("cost_limit", "penstock batch resume 01a2-job --max-cost USD"),
        ("requests_missing", "penstock batch cancel 01a2-job"),
        ("something_new", "read the message, then: penstock batch resume 01a2-job"),
        *((each, "01a2-job") for each in PauseReason if each is not PauseReason.COST_LIMIT),
    ],
)
def test_every_pause_has_a_remedy(kind: str, ends: str) -> None:
    line = pause_remedy(batch(paused=replace(PAUSED, type=kind)))
    assert line.endswith(ends)
    known = PauseReason.of(kind)
    assert line.startswith(known.remedy if known else "read the message, then: ")
    assert "\n" not in line


def test_every_alert_has_a_remedy_including_one_of_a_newer_worker() -> None:
    for kind in Alert:
        assert alert_remedy(replace(ALERT, type=str(kind))) == kind.remedy
    assert alert_remedy(replace(ALERT, type="something_new")) == "read the message"


def test_an_ended_job_shows_its_cost() -> None:
    cost = {"currency": "USD", "batch": 1.0, "live": 2.0}
    job = batch(
        collected(0), state=State.FAILED, cost=cost, ended_at=MADE, error={"type": "x"},
        budget=Budget(5.0, 1.0, 0.5),
    )  # fmt: skip
    shown = fields(job)
    assert shown["cost"] == "1.00 USD (50% less than 2.00 for live calls)"
    assert cost_summary({"currency": "USD", "batch": 0.0, "live": 0.0}) == "0.0000 USD"
    assert shown["cost cap"] == "5.00 USD (1.00 spent, 0.5000 reserved)"
    assert shown["error"] == "x: no message"
    assert "ended" in shown


def test_the_state_of_a_job_shows_why_it_is_not_progressing() -> None:
    assert (
        fields(batch(planned(0), waiting_for_canary=True))["state"]
        == "running (waiting for its canary)"
    )
    canceling = batch(running(0), processing_status="canceling", paused=None)
    assert fields(canceling)["state"] == "running (canceling)"
    retrying = batch(collected(0, retried=3), running(100, round=1))
    assert fields(retrying)["batches"] == "1 of 2 ended, 1 at the API, 1 retry round"
