"""The shards of a batch job as lines of text."""

from penstock.batches.shard import Counts
from penstock.cli.text.shard_table import most_relevant, shard_line, shard_table
from tests.unit.penstock.cli.text.example_jobs import batch, collected, planned, running


def test_a_shard_is_described_in_one_line() -> None:
    assert shard_line(planned(0)) == "shard 0  planned      10 requests"
    assert shard_line(running(3)) == "shard 3  in_progress  msgbatch_3  10 requests"
    line = shard_line(collected(3, 2, retried=4, round=1))
    assert line == (
        "shard 3  collected    msgbatch_3  8 succeeded, 2 errored; 4 retried; retry round 1"
    )
    assert shard_line(running(1, failures=2)).endswith("msgbatch_1  2 consecutive API failures")
    moved = collected(0, retried=10).evolve(counts=Counts())
    assert shard_line(moved).endswith("msgbatch_0  10 retried")
    shared = moved.evolve(batch_id="", round=1)
    assert shard_line(shared).endswith("collected    10 moved to a shared batch; retry round 1")


def test_the_most_relevant_shards_are_selected() -> None:
    shards = [
        *(collected(n, collected_ms=n) for n in range(50)),
        collected(50, 1),
        running(51),
        running(52, failures=1),
        *(planned(n) for n in range(53, 100)),
    ]
    assert [s.number for s in most_relevant(shards, 1)] == [52]
    assert [s.number for s in most_relevant(shards, 3)] == [50, 51, 52]
    assert [s.number for s in most_relevant(shards, 5)] == [50, 51, 52, 53, 54]
    assert [s.number for s in most_relevant(shards, 51)] == [49, *range(50, 100)]
    assert most_relevant(shards, 0) == []
    assert most_relevant(shards, 100) == shards


def test_the_table_counts_the_shards_it_omits() -> None:
    job = batch(*(planned(n) for n in range(30)))
    lines = list(shard_table(job))
    assert len(lines) == 22
    assert lines[-1].endswith("… and 10 more (use --all to show them)")
    assert len(list(shard_table(job, rows=None))) == 31
    assert lines[1].split() == ["0", "planned", "10", "-"]
