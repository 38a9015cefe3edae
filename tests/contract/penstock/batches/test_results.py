"""Results of jobs as both clients read them, over a real Redis; workers are played by hand."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from penstock.batches.client import Batches
from penstock.client import Client
from penstock.errors import InvalidRequest, NotEnded, NotFound
from penstock.ids import new_id
from tests.connections import redis_of
from tests.contract.penstock.batches.collecting import all_ids, collect_all
from tests.contract.tasks.batches.hand_made import HandMadeJob
from tests.scripted import TIMEOUT_S


def ids_of(lines: Iterator[Any]) -> list[str]:
    return [line.custom_id for line in lines]


def test_results_are_read_in_the_order_of_collection_or_of_submission(
    batches: Batches, job: HandMadeJob
) -> None:
    completed = collect_all(job)
    assert ids_of(batches.results(job.id)) == completed
    assert sorted(completed) == sorted(all_ids())
    assert ids_of(batches.results(job.id, order="submitted")) == all_ids()
    line = next(batches.results(job.id))
    assert line.result.message.content[0].text.startswith(f"answer to {line.custom_id}")
    assert orjson.loads(next(batches.result_lines(job.id))) == line


@pytest.mark.parametrize(
    "options", [{"order": "completed"}, {"order": "submitted"}, {"wait": True}]
)
@pytest.mark.parametrize("after", [0, 1, 5, 9, 10, 11])
def test_results_are_read_from_any_line_on(
    batches: Batches, job: HandMadeJob, options: dict[str, Any], after: int
) -> None:
    collect_all(job)
    whole = list(batches.result_lines(job.id, **options))
    assert len(whole) == 10
    assert list(batches.result_lines(job.id, **options, after=after)) == whole[after:]


def test_both_clients_read_the_same_result_lines(
    client: Client, batches: Batches, job: HandMadeJob
) -> None:
    collect_all(job)
    lines = list(client.messages.batches.result_lines(job.id))
    assert list(batches.result_lines(job.id)) == lines
    assert list(batches.result_lines(job.id, wait=True)) == lines


def test_results_of_a_running_job_are_read_as_they_are_collected(
    batches: Batches, job: HandMadeJob
) -> None:
    with pytest.raises(NotEnded, match=f"{job.id} has not ended; .*wait=True"):
        list(batches.results(job.id))
    job.collect(1, at_ms=99)
    lines = batches.results(job.id, wait=True, timeout=TIMEOUT_S)
    second = job.shards[1]
    here = ids_of(islice(lines, second.requests))
    assert here == all_ids()[second.first : second.last + 1][::-1]
    # A worker whose clock is late collects after that: the order that was read does not change.
    job.collect(0, at_ms=1)
    first = job.shards[0]
    assert ids_of(islice(lines, first.requests)) == all_ids()[: first.last + 1][::-1]
    continued = batches.results(job.id, wait=True, after=second.requests, timeout=TIMEOUT_S)
    assert next(continued).custom_id == all_ids()[first.last]
    for shard in job.shards[2:]:
        job.cancel(shard.number)
    job.end()
    rest = list(lines)
    assert {line.result.type for line in rest} == {"canceled"}
    assert ids_of(iter(rest)) == all_ids()[first.requests + second.requests :]
    whole = ids_of(batches.results(job.id))
    assert whole[: len(here)] == here
    assert whole[len(here) + 1 :] == ids_of(continued)


def test_a_job_whose_log_is_lost_still_has_all_its_results(
    client: Client, batches: Batches, job: HandMadeJob
) -> None:
    collect_all(job)
    redis_of(client).xtrim(job.keys.log, maxlen=1, approximate=False)
    redis_of(client).hset(job.keys.meta, "base", redis_of(client).hget(job.keys.meta, "n"))
    assert sorted(ids_of(batches.results(job.id))) == sorted(all_ids())


def test_results_whose_chunks_have_expired_are_not_found(
    client: Client, batches: Batches, job: HandMadeJob
) -> None:
    collect_all(job)
    redis_of(client).delete(job.keys.chunks(job.shards[0].results))
    for order in ("completed", "submitted"):
        with pytest.raises(NotFound, match="have expired"):
            list(batches.results(job.id, order=order))


@pytest.mark.parametrize(
    "options",
    [
        {"order": "any"},
        {"order": "any", "wait": True},
        {"after": -1},
        {"after": -1, "wait": True},
        {"order": "submitted", "wait": True},
    ],
)
def test_an_invalid_order_or_offset_of_results_is_refused(
    batches: Batches, job: HandMadeJob, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        list(batches.results(job.id, **options))


@pytest.mark.parametrize("wait", [True, False])
def test_results_of_an_unknown_job_are_not_found(batches: Batches, wait: bool) -> None:
    with pytest.raises(NotFound):
        list(batches.results(new_id(), wait=wait))


@pytest.fixture
def former_spool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Readers that know the spool of the job as a former one; theirs is Redis."""
    monkeypatch.setenv("PENSTOCK_FORMER_SPOOL_URLS", f'["file://{tmp_path}/spool"]')


@pytest.mark.usefixtures("former_spool")
def test_a_job_whose_chunks_are_files_is_read_and_deleted_with_the_settings_of_another_spool(
    client: Client, batches: Batches, tmp_path: Path
) -> None:
    url = client.settings.redis_url.get_secret_value()
    with Client(url, shard_requests=4, spool_url=f"file://{tmp_path}/spool") as producer:
        job = HandMadeJob(producer, 10)
        completed = collect_all(job)
    assert ids_of(batches.results(job.id)) == completed
    assert ids_of(batches.results(job.id, order="submitted")) == all_ids()
    file = next((tmp_path / "spool" / job.id / job.shards[0].results).iterdir())
    file.unlink()
    with pytest.raises(NotFound, match="have expired"):
        list(batches.results(job.id))
    batches.delete(job.id)
    assert list((tmp_path / "spool").iterdir()) == []
