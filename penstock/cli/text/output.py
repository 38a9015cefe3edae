"""Prints status messages on stderr and results on stdout; formats numbers."""

import os
import sys
from collections.abc import Mapping
from typing import IO, Any, Final

import click

from penstock.batches.shard import Counts

#: The final states of a request, in the order in which they are printed.
_FINAL_STATES = ("succeeded", "errored", "canceled", "expired")

#: Maximum number of error types that are printed.
_MAX_ERRORS = 5


#: Shown with every answer and job that the simulator has answered.
SIMULATED: Final = "invented by the API simulator"


def print_status(text: str) -> None:
    """Print a status message on stderr; dimmed on a terminal with colors."""
    click.echo(styled(text, sys.stderr, dim=True), err=True)


def styled(text: str, file: IO[Any], **style: Any) -> str:
    """Style ``text`` if ``file`` is a terminal and ``NO_COLOR`` is not set."""
    plain = os.environ.get("NO_COLOR") or not file.isatty()
    return text if plain else click.style(text, **style)


def print_line(text: str, **style: Any) -> None:
    """Print a line on stdout and flush it."""
    click.echo(styled(text, sys.stdout, **style))
    sys.stdout.flush()


def write_text(text: str) -> None:
    """Write part of an answer to stdout and flush it."""
    click.echo(text, nl=False)


def write_line(line: bytes, file: IO[bytes] | None = None) -> None:
    """Write a line of results as raw bytes, to ``file`` or to stdout."""
    (file or sys.stdout.buffer).write(line + b"\n")


def duration(milliseconds: float) -> str:
    """Format a measured duration: ``38 ms``, ``1.24 s`` or ``3 min 05 s``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_995:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds:02} s"


def rough_duration(seconds: float) -> str:
    """Format an estimated duration: ``40 s``, ``12 min``, ``3.5 h`` or ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def summary(id: str, end: Mapping[str, Any]) -> str:
    """Summarize a stream that has ended in one line: its id, token counts and timings."""
    usage = end.get("usage") or {}
    parts = [f"id {id}"]
    if usage:
        tokens_in, tokens_out = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
        about = " (estimated)" if end.get("usage_estimated") else ""
        parts.append(f"{tokens_in} tokens in, {tokens_out} out{about}")
    if end.get("first_delta_ms") is not None:
        parts.append(f"first delta {duration(end['first_delta_ms'])}")
    if end.get("total_ms") is not None:
        parts.append(f"total {duration(end['total_ms'])}")
    if end.get("stop_reason") not in (None, "end_turn"):
        parts.append(f"stop reason {end['stop_reason']}")
    if end.get("simulated"):
        parts.append(f"simulated: {SIMULATED}")
    return " · ".join(parts)


def outcome_counts(counts: Counts) -> str:
    """Format the request counts of a job, all final states included."""
    parts = [f"{getattr(counts, name):,} {name}" for name in _FINAL_STATES]
    if counts.processing == counts.total:
        parts = []
    if counts.processing or not counts.total:
        parts.insert(0, f"{counts.processing:,} processing")
    return ", ".join(parts)


def nonzero_counts(counts: Counts) -> str:
    """Format the request counts that are not 0, for a table column."""
    named = ((getattr(counts, name), name) for name in ("processing", *_FINAL_STATES))
    return ", ".join(f"{count:,} {name}" for count, name in named if count)


def error_counts(errors: Mapping[str, int]) -> str:
    """Format how many requests ended in each type of error; further types are added up."""
    shown = [f"{count:,} {name}" for name, count in list(errors.items())[:_MAX_ERRORS]]
    others = sum(list(errors.values())[_MAX_ERRORS:])
    return ", ".join([*shown, f"{others:,} others"] if others else shown)


def quantity(number: int, singular: str, plural: str = "") -> str:
    """Format a number with its noun: ``1 request``, ``1,000 requests``."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def cost_summary(cost: Mapping[str, Any] | None) -> str:
    """Format the cost of a job, compared with the same requests as live calls."""
    if not cost:
        return "unknown (no price is known for this model)"
    spent = f"{dollars(cost['batch'])} {cost['currency']}"
    if cost["batch"] < cost["live"]:
        saved = 1 - cost["batch"] / cost["live"]
        spent += f" ({saved:.0%} less than {dollars(cost['live'])} for live calls)"
    if cost.get("estimated"):
        spent += f", of which up to {dollars(cost['estimated'])} for calls without an answer"
    if cost.get("excludes"):
        spent += f", without {', '.join(cost['excludes'])}"
    return spent


def dollars(amount: float) -> str:
    """Format an amount: four decimals below 1, otherwise two."""
    return f"{amount:.4f}" if amount < 1 else f"{amount:,.2f}"
