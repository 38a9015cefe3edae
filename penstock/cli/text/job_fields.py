"""What the command line says about a batch job, in words; pure."""

from collections.abc import Iterator
from datetime import datetime

from penstock.batches.estimates import Estimate
from penstock.batches.view import Batch, Notice
from penstock.cli.text.output import (
    cost_summary,
    dollars,
    outcome_counts,
    quantity,
    rough_duration,
)
from penstock.cli.text.remedies import remedy


def job_fields(job: Batch, estimate: Estimate | None) -> Iterator[tuple[str, str]]:
    """Name and value of everything that is worth knowing about a job."""
    yield "id", job.id
    yield "state", state_text(job)
    if job.paused:
        yield "paused", f"{notice_text(job.paused)} (since {local_time(job.paused.since)})"
        yield "to do", remedy(job)
    if job.alert:
        yield "alert", f"{notice_text(job.alert)} (since {local_time(job.alert.since)})"
    if job.error:
        yield "error", end_reason(job)
    yield "model", job.model
    yield "created", local_time(job.created_at)
    if job.ended_at is not None:
        yield "ended", local_time(job.ended_at)
    yield "requests", f"{job.request_counts.total:,}: {outcome_counts(job.request_counts)}"
    yield "batches", batch_progress(job)
    if estimate:
        yield "left", remaining_time(estimate)
    if job.usage:
        yield "tokens", ", ".join(f"{count:,} {name}" for name, count in job.usage.items())
    if job.state.ended:
        yield "cost", cost_summary(job.cost)
    if job.budget:
        yield "money cap", budget_text(job)


def state_text(job: Batch) -> str:
    """The job's state; with what it waits for, if it does."""
    if job.processing_status == "canceling":
        return f"{job.state} (cancel asked for)"
    if job.paused:
        return f"{job.state} (paused)"
    return f"{job.state} (its canary first)" if job.waiting_for_canary else str(job.state)


def notice_text(notice: Notice) -> str:
    """Type and message of a pause or an alert, in one line."""
    return f"{notice.type}: {' '.join(notice.message.split())}"


def end_reason(job: Batch) -> str:
    """Why a job did not end well."""
    if job.error:
        return f"{job.error.get('type', 'error')}: {job.error.get('message', 'no message')}"
    return f"{job.id} was {job.state}"


def batch_progress(job: Batch) -> str:
    """How many batches there are, and how far they are."""
    progress = job.progress
    told = [f"{progress.ended:,} of {progress.shards:,} ended"]
    if progress.active:
        told.append(f"{progress.active:,} at the API")
    if progress.rounds:
        told.append(f"retried up to {quantity(progress.rounds, 'time')}")
    return ", ".join(told)


def remaining_time(estimate: Estimate) -> str:
    """How much longer it will take, for all that is known."""
    middle, high = rough_duration(estimate.median_s), rough_duration(estimate.high_s)
    return f"about {middle}" if middle == high else f"about {middle}, on a bad day {high}"


def budget_text(job: Batch) -> str:
    """What a job may cost, and how much of that is gone."""
    assert job.budget is not None
    cap, spent, reserved = job.budget.cap_usd, job.budget.spent_usd, job.budget.reserved_usd
    told = f"{dollars(cap)} USD: {dollars(spent)} spent"
    return f"{told}, up to {dollars(reserved)} under way" if reserved else told


def local_time(time: datetime) -> str:
    """A time in the zone of whoever reads it."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
