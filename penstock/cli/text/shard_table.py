"""The shards of a batch job as lines of text, the most relevant first; pure."""

from collections.abc import Iterator, Sequence

from penstock.batches.shard import Shard
from penstock.batches.view import Batch
from penstock.cli.text.output import nonzero_counts, quantity

#: Shards that ``penstock batch status`` tells about, unless it is asked for all.
MAX_ROWS = 20


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
