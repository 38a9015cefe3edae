"""The shards of a batch job as lines of text, the most relevant first; pure."""

from collections.abc import Iterator, Sequence

from penstock.batches.shard import Shard, ShardState
from penstock.batches.view import Batch
from penstock.cli.text.output import nonzero_counts, quantity

#: Maximum number of shards that ``penstock batch status`` shows without ``--all``.
MAX_ROWS = 20


def shard_table(job: Batch, *, rows: int | None = MAX_ROWS) -> Iterator[str]:
    """Yield a header and one line per shard, at most ``rows`` of them; None shows all."""
    shown = list(job.shards) if rows is None else most_relevant(job.shards, rows)
    yield f"{'shard':>7}  {'state':<11}  {'requests':>8}  {'batch id':<30}  outcome"
    for shard in shown:
        yield (
            f"{shard.number:>7}  {shard.state:<11}  {shard.requests:>8,}  "
            f"{shard.batch_id or '-':<30}  {shard_summary(shard)}"
        ).rstrip()
    if len(shown) < len(job.shards):
        yield f"{'':>7}  … and {len(job.shards) - len(shown):,} more (use --all to show them)"


def shard_summary(shard: Shard) -> str:
    """Summarize the results, retries and API failures of a shard."""
    parts = []
    if shard.live:
        parts.append("canary (live calls)")
    if shard.state == ShardState.COLLECTED:
        parts.append(nonzero_counts(shard.counts))
    if shard.retried:
        # A shard that is collected without a batch has given its requests to another shard.
        moved = shard.state == ShardState.COLLECTED and not shard.batch_id and not shard.live
        parts.append(f"{shard.retried:,} {'moved to a shared batch' if moved else 'retried'}")
    if shard.round:
        parts.append(f"retry round {shard.round}")
    if shard.failures:
        parts.append(quantity(shard.failures, "consecutive API failure"))
    return "; ".join(filter(None, parts))


def shard_line(shard: Shard) -> str:
    """Describe a shard in one line of a log."""
    parts = [f"shard {shard.number}", f"{shard.state:<11}", shard.batch_id]
    parts.append(shard_summary(shard) or quantity(shard.requests, "request"))
    return "  ".join(part for part in parts if part)


def most_relevant(shards: Sequence[Shard], rows: int) -> list[Shard]:
    """Select at most ``rows`` shards, returned in the order of their numbers.

    Shards with API failures come first, then active shards, shards with requests that did not
    succeed, planned shards, and finally the most recently collected ones.
    """
    if len(shards) <= rows:
        return list(shards)
    chosen = sorted(shards, key=_display_rank)[: max(rows, 0)]
    return sorted(chosen, key=lambda shard: shard.number)


def _display_rank(shard: Shard) -> tuple[int, int]:
    """Return the sort key of a shard; the lowest is displayed first."""
    if shard.state == ShardState.COLLECTED:
        unsuccessful = shard.counts.total > shard.counts.succeeded
        return (2 if unsuccessful else 4, -shard.collected_ms)
    if shard.failures:
        return 0, shard.number
    return (3 if shard.state == ShardState.PLANNED else 1, shard.number)
