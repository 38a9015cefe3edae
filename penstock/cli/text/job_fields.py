"""The fields of a batch job as text: state, progress, remaining time, cost; pure."""

from collections.abc import Iterator
from datetime import datetime

from penstock.batches.estimates import Estimate
from penstock.batches.view import Batch, Notice
from penstock.cli.text.output import (
    SIMULATED,
    cost_summary,
    dollars,
    error_counts,
    outcome_counts,
    quantity,
    rough_duration,
)
from penstock.cli.text.remedies import alert_remedy, pause_remedy


def job_fields(job: Batch, estimate: Estimate | None) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each field that applies to the job."""
    yield "id", job.id
    yield "state", state_text(job)
    if job.paused:
        yield "paused", f"{notice_text(job.paused)} (since {local_time(job.paused.since)})"
        yield "action", pause_remedy(job)
    if job.alert:
        yield "alert", f"{notice_text(job.alert)} (since {local_time(job.alert.since)})"
        yield "check", alert_remedy(job.alert)
    if job.error:
        yield "error", end_reason(job)
    yield "model", job.model
    if job.simulated:
        yield "simulated", SIMULATED
    yield "created", local_time(job.created_at)
    if job.ended_at is not None:
        yield "ended", local_time(job.ended_at)
    yield "requests", f"{job.request_counts.total:,}: {outcome_counts(job.request_counts)}"
    if job.errors:
        yield "errors", error_counts(job.errors)
    yield "batches", batch_progress(job)
    if estimate:
        yield "remaining", remaining_time(estimate)
    if job.usage:
        yield "tokens", ", ".join(f"{count:,} {name}" for name, count in job.usage.items())
    yield from _money_and_retries(job)


def _money_and_retries(job: Batch) -> Iterator[tuple[str, str]]:
    if job.state.ended:
        yield "cost", cost_summary(job.cost)
    if job.budget:
        yield "cost cap", budget_text(job)
    if job.retry_of:
        yield "retry of", job.retry_of
    if job.retried_by:
        yield "retried by", job.retried_by


def state_text(job: Batch) -> str:
    """Return the job's state and, if it applies, why it is not progressing."""
    if job.processing_status == "canceling":
        return f"{job.state} (canceling)"
    if job.paused:
        return f"{job.state} (paused)"
    return f"{job.state} (waiting for its canary)" if job.waiting_for_canary else str(job.state)


def notice_text(notice: Notice) -> str:
    """Return the type and message of a pause or an alert in one line."""
    return f"{notice.type}: {' '.join(notice.message.split())}"


def end_reason(job: Batch) -> str:
    """Return why a job failed or was canceled."""
    if job.error:
        return f"{job.error.get('type', 'error')}: {job.error.get('message', 'no message')}"
    return f"{job.id} was {job.state}"


def batch_progress(job: Batch) -> str:
    """Return how many batches have ended and are at the API, and the retry rounds."""
    progress = job.progress
    parts = [f"{progress.ended:,} of {progress.shards:,} ended"]
    if progress.active:
        parts.append(f"{progress.active:,} at the API")
    if progress.rounds:
        parts.append(quantity(progress.rounds, "retry round"))
    return ", ".join(parts)


def remaining_time(estimate: Estimate) -> str:
    """Format the median of the remaining time and, if it differs, the 90th percentile."""
    median, high = rough_duration(estimate.median_s), rough_duration(estimate.high_s)
    return f"about {median}" if median == high else f"about {median} (p90: {high})"


def budget_text(job: Batch) -> str:
    """Format the job's cost cap and how much of it is spent and reserved."""
    assert job.budget is not None
    cap, spent, reserved = job.budget.cap_usd, job.budget.spent_usd, job.budget.reserved_usd
    used = f"{dollars(spent)} spent"
    if reserved:
        used += f", {dollars(reserved)} reserved"
    return f"{dollars(cap)} USD ({used})"


def local_time(time: datetime) -> str:
    """Format a time in the local time zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
