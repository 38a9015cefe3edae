"""Every malformed result line that the simulator knows harms only its own request."""

from pathlib import Path

import pyarrow.parquet
import pytest

from penstock import Client
from penstock.batches.parquet import write_parquet
from penstock.simulator.faults.malformed_lines import MALFORMED_LINES
from penstock.simulator.faults.odd_batches import ODD_BATCHES
from tasks.batches.step_result import JobEnded, Next, Parked, RetryIn, StepResult
from tests.contract.tasks.batches.batch_stage import BatchStage


@pytest.mark.parametrize("name", sorted(MALFORMED_LINES))
def test_the_other_lines_of_its_batch_are_delivered_by_every_reader(
    stage: BatchStage, client: Client, tmp_path: Path, name: str
) -> None:
    job = stage.sent("a", f"b [[sim line={name}]]", "c")
    steps: list[StepResult] = []
    while not steps or isinstance(steps[-1], RetryIn):
        assert len(steps) < 9
        steps.append(job.collect())
    assert isinstance(steps[-1], Next)
    assert isinstance(job.finish(), JobEnded)
    lines = list(client.messages.batches.results(job.id, order="submitted"))
    assert [line.custom_id for line in lines] == ["r-0", "r-1", "r-2"]
    assert [line.result.type for line in lines[::2]] == ["succeeded", "succeeded"]
    assert lines[1].result.type in ("succeeded", "errored", "postponed")
    raw = list(client.messages.batches.result_lines(job.id))
    assert b"\n".join(raw).decode().count("\n") == 2
    path = tmp_path / "x.parquet"
    write_parquet(raw, path)
    assert pyarrow.parquet.read_table(path).num_rows == 3
    counts = client.messages.batches.retrieve(job.id).request_counts
    assert (counts.total, counts.processing) == (3, 0)


@pytest.mark.parametrize("name", sorted(ODD_BATCHES))
def test_a_batch_in_an_odd_form_is_polled_until_the_api_shows_it_in_order(
    stage: BatchStage, name: str
) -> None:
    job = stage.sent("a")
    stage.control.fault(odd_batch=name, times=3)
    for _ in range(4):
        step = job.poll()
        assert not isinstance(step, Parked)
    stage.control.clear_faults()
    assert isinstance(job.collect(), Next)
    assert sorted(job.results()) == ["r-0"]
