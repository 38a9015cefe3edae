"""The live table of ``penstock batch watch``: totals, shards and notices."""

import time
from collections.abc import Iterator
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table as Grid
from rich.text import Text

from penstock.batches.estimates import Estimate
from penstock.batches.shard import Shard, ShardState
from penstock.batches.view import Batch
from penstock.cli.text.job_fields import batch_progress, notice_text, state_text
from penstock.cli.text.output import error_counts, rough_duration
from penstock.cli.text.remedies import alert_remedy, pause_remedy
from penstock.cli.text.shard_table import most_relevant, shard_summary
from penstock.clock import now_ms

#: Maximum number of lines besides the shards and the errors.
_OTHER_LINES = 9
#: Minimum number of shards, for a terminal that is very small or does not report its height.
_MIN_SHARDS = 3
_BAR = 24


class LiveTable:
    """Shows a job on a terminal and redraws durations and bars between its updates."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._job: Batch | None = None
        self._estimate: Estimate | None = None
        self._estimated_at = 0.0
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=4,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, job: Batch, estimate: Estimate | None) -> None:
        """Show the current state of the job."""
        if estimate is not self._estimate:
            self._estimate, self._estimated_at = estimate, time.monotonic()
        self._job = job
        self._live.refresh()

    def _render(self) -> RenderableType:
        if self._job is None:
            return Text("")
        return Group(*self._lines(self._job))

    def _lines(self, job: Batch) -> Iterator[RenderableType]:
        yield _line(f"{job.id}  {job.model}  {state_text(job)}")
        yield self._totals(job)
        rows = max(self._console.height - _OTHER_LINES - bool(job.errors), _MIN_SHARDS)
        shown = most_relevant(job.shards, rows)
        yield _grid(shown, ended=job.state.ended)
        if len(shown) < len(job.shards):
            yield Text(f"… and {len(job.shards) - len(shown):,} more", style="dim")
        if job.errors:
            yield _line(f"errors  {error_counts(job.errors)}")
        if job.alert:
            yield _line(f"alert   {notice_text(job.alert)}", style="yellow")
            yield _line(f"check   {alert_remedy(job.alert)}")
        if job.paused:
            yield _line(f"paused  {notice_text(job.paused)}", style="bold yellow")
            yield Text(f"action  {pause_remedy(job)}", style="bold")

    def _totals(self, job: Batch) -> RenderableType:
        counts = job.request_counts
        done = counts.total - counts.processing
        end = job.ended_at.timestamp() * 1000 if job.ended_at else now_ms()
        elapsed = rough_duration(max(end / 1000 - job.created_at.timestamp(), 0))
        parts = [f"{done:,}/{counts.total:,}", batch_progress(job)]
        if job.state.ended:
            parts.append(f"took {elapsed}")
        else:
            parts += [f"{elapsed} elapsed", *self._remaining()]
        line = _columns({"width": _BAR})
        bar = ProgressBar(total=counts.total, completed=done, width=_BAR)
        line.add_row(bar, _line(" · ".join(parts)))
        return line

    def _remaining(self) -> Iterator[str]:
        """Yield what is left of the estimate; nothing once its 90th percentile has passed."""
        if self._estimate is None:
            return
        passed_s = time.monotonic() - self._estimated_at
        median_s, high_s = self._estimate.median_s - passed_s, self._estimate.high_s - passed_s
        if median_s > 0:
            median, high = rough_duration(median_s), rough_duration(high_s)
            yield f"about {median} left" + (f" (p90: {high})" if high != median else "")
        elif high_s > 0:
            yield f"up to {rough_duration(high_s)} left"


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, overflow="ellipsis", no_wrap=True)


def _columns(*options: dict[str, Any]) -> Grid:
    """Make a grid of fixed columns and a last one that takes the rest of the line."""
    grid = Grid.grid(padding=(0, 2))
    for each in options:
        grid.add_column(no_wrap=True, **each)
    grid.add_column()
    return grid


def _grid(shown: list[Shard], *, ended: bool) -> Grid:
    right: dict[str, Any] = {"justify": "right"}
    grid = _columns({}, {}, {}, {"width": _BAR}, right, right)
    for shard in shown:
        grid.add_row(*_row(shard, ended=ended))
    return grid


def _row(shard: Shard, *, ended: bool) -> Iterator[RenderableType]:
    collected = shard.state == ShardState.COLLECTED
    idle = shard.state == ShardState.PLANNED or ended
    yield _SPINNER if not (collected or idle) else Text("✓" if collected else " ", style="green")
    yield f"shard {shard.number}"
    yield Text(shard.state, style="dim" if shard.state == ShardState.PLANNED else "")
    # The API reports no counts until the whole batch has ended; until then the bar pulses.
    yield ProgressBar(
        total=None if not (collected or idle) else shard.requests,
        completed=shard.requests if collected else 0,
        width=_BAR,
        pulse=not (collected or idle),
    )
    yield f"{shard.requests if collected else 0:,}/{shard.requests:,}"
    yield rough_duration(_age_s(shard)) if shard.created_ms else ""
    yield _line("  ".join(filter(None, (shard.batch_id, shard_summary(shard)))), style="dim")


def _age_s(shard: Shard) -> float:
    """Return the age in seconds of a batch at the API, at its end if it has ended."""
    return max((shard.ended_ms or now_ms()) - shard.created_ms, 0) / 1000


_SPINNER = Spinner("dots")
