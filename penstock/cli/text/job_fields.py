"""What the command line says about a batch job, in words; pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from penstock.batches.estimates import Estimate
from penstock.batches.shard import Shard
from penstock.batches.view import Batch, Notice
from penstock.cli.text.output import (
    cost_summary,
    dollars,
    nonzero_counts,
    outcome_counts,
    quantity,
    rough_duration,
)
from penstock.cli.text.remedies import remedy

#: Shards that ``penstock batch status`` tells about, unless it is asked for all.
MAX_ROWS = 20


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


def shard_table(job: Batch, *, rows: int | None = MAX_ROWS) -> Iterator[str]:
    """A line for each shard, or for ``rows`` of them, and how many there are beside."""
    shown = list(job.shards) if rows is None else most_relevant(job.shards, rows)
    yield f"{'shard':>7}  {'state':<11}  {'requests':>8}  {'batch':<30}  outcome"
    for shard in shown:
        yield (
            f"{shard.number:>7}  {shard.state:<11}  {shard.requests:>8,}  "
            f"{shard.batch_id or '-':<30}  {shard_summary(shard)}"
        ).rstrip()
    if len(shown) < len(job.shards):
        yield f"{'':>7}  … and {len(job.shards) - len(shown):,} more (--all)"


def shard_summary(shard: Shard) -> str:
    """What became of a shard's requests, or what is the matter with it."""
    told = []
    if shard.live:
        told.append("canary: live calls")
    if shard.state == "collected":
        told.append(nonzero_counts(shard.counts))
    if shard.retried:
        told.append(f"{shard.retried:,} tried again")
    if shard.round:
        told.append(f"round {shard.round + 1}")
    if shard.failures:
        told.append(f"refused {quantity(shard.failures, 'time')} in a row")
    return "; ".join(filter(None, told))


def shard_line(shard: Shard) -> str:
    """A shard as one line of a log."""
    parts = [f"shard {shard.number}", f"{shard.state:<11}", shard.batch_id]
    parts.append(shard_summary(shard) or quantity(shard.requests, "request"))
    return "  ".join(part for part in parts if part)


def most_relevant(shards: Sequence[Shard], rows: int) -> list[Shard]:
    """At most ``rows`` shards, by number: those with trouble, those under way, those that failed,
    the next ones, and the ones that were collected last."""
    if len(shards) <= rows:
        return list(shards)
    chosen = sorted(shards, key=_display_rank)[: max(rows, 0)]
    return sorted(chosen, key=lambda shard: shard.number)


def _display_rank(shard: Shard) -> tuple[int, int]:
    """What is looked at first is the lowest."""
    if shard.state == "collected":
        failed = shard.counts.total > shard.counts.succeeded
        return (2 if failed else 4, -shard.collected_ms)
    if shard.failures:
        return 0, shard.number
    return (3 if shard.state == "planned" else 1, shard.number)
