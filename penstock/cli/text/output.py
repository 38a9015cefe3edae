"""How things are written: notes to stderr, payload to stdout, and the words for numbers."""

import os
import sys
from collections.abc import Mapping
from typing import IO, Any

import click

from penstock.batches.shard import Counts

#: The ways in which a request can end.
_ENDS = ("succeeded", "errored", "canceled", "expired")


def print_status(text: str) -> None:
    """A line for the person, on stderr; dim where that is a terminal with colours."""
    click.echo(styled(text, sys.stderr, dim=True), err=True)


def styled(text: str, file: IO[Any], **style: Any) -> str:
    """``text`` with a style, if ``file`` is a terminal whose user wants colours."""
    plain = os.environ.get("NO_COLOR") or not file.isatty()
    return text if plain else click.style(text, **style)


def print_line(text: str, **style: Any) -> None:
    """A line on stdout that shows at once."""
    click.echo(styled(text, sys.stdout, **style))
    sys.stdout.flush()


def write_text(text: str) -> None:
    """Payload that shows at once."""
    click.echo(text, nl=False)


def write_line(line: bytes, file: IO[bytes] | None = None) -> None:
    """A line of payload, byte by byte as it is."""
    (file or sys.stdout.buffer).write(line + b"\n")


def duration(milliseconds: float) -> str:
    """``38 ms``, ``1.24 s`` or ``3 min 05 s``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_995:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds:02} s"


def summary(id: str, end: Mapping[str, Any]) -> str:
    """One line about a stream that has ended: what it used and how long it took."""
    usage = end.get("usage") or {}
    parts = [f"id {id}"]
    if usage:
        parts.append(f"{usage.get('input_tokens', 0)} in, {usage.get('output_tokens', 0)} out")
    if end.get("first_delta_ms") is not None:
        parts.append(f"first delta {duration(end['first_delta_ms'])}")
    if end.get("total_ms") is not None:
        parts.append(f"total {duration(end['total_ms'])}")
    if end.get("stop_reason") not in (None, "end_turn"):
        parts.append(f"stopped by {end['stop_reason']}")
    return " · ".join(parts)


def rough_duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h`` or ``2.1 days``: for what nobody knows any better."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def outcome_counts(counts: Counts) -> str:
    """The counts of a batch, in the order in which people ask for them."""
    told = [f"{getattr(counts, name):,} {name}" for name in _ENDS]
    if counts.processing == counts.total:
        told = []
    if counts.processing or not counts.total:
        told.insert(0, f"{counts.processing:,} processing")
    return ", ".join(told)


def nonzero_counts(counts: Counts) -> str:
    """The counts that are not 0, for a column."""
    told = ((getattr(counts, name), name) for name in ("processing", *_ENDS))
    return ", ".join(f"{count:,} {name}" for count, name in told if count)


def quantity(number: int, one: str, many: str = "") -> str:
    """``1 request``, ``1,000 requests``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def cost_summary(cost: Mapping[str, Any] | None) -> str:
    """What a batch cost beside what it would have cost live."""
    if not cost:
        return "unknown: no price is known for this model"
    if not cost["live"]:
        return f"{dollars(cost['batch'])} {cost['currency']}"
    saved = 1 - cost["batch"] / cost["live"]
    return (
        f"{dollars(cost['batch'])} {cost['currency']}; "
        f"live it would be {dollars(cost['live'])} ({saved:.0%} saved)"
    )


def dollars(amount: float) -> str:
    """An amount in as many digits as are of use."""
    return f"{amount:.4f}" if amount < 1 else f"{amount:,.2f}"
