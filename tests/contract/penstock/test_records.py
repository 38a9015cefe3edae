"""Records of requests and jobs in a real Redis."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import events
from penstock.batches.jobs import JobRecords
from penstock.batches.options import SubmissionOptions
from penstock.batches.shard import Counts
from penstock.batches.submission import Submission
from penstock.batches.view import Batch
from penstock.client import Client
from penstock.errors import InvalidRequest, NotEnded, NotFound
from penstock.ids import new_id
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.settings import ClientSettings
from penstock.spool.chunks import pack
from penstock.states import State
from penstock.streams.records import RequestOptions, RequestRecords

SETTINGS = ClientSettings.load(
    key_prefix="contract", request_ttl_s=100, batch_ttl_s=200, retention_s=50
)

UNKNOWN = "01a20000-0000-7000-8000-000000000000"


@pytest.fixture
def requests(connection: Any) -> RequestRecords:
    return RequestRecords(connection, SETTINGS)


@pytest.fixture
def records(connection: Any) -> Iterator[JobRecords]:
    """Records of jobs under a prefix of their own, so that the list has no others."""
    yield JobRecords(connection, SETTINGS)
    for key in connection.scan_iter("contract:*"):
        connection.delete(key)


def keys_of(connection: Any, id: str) -> list[bytes]:
    return list(connection.scan_iter(f"*{id}*"))


def request(custom_id: str, text: str = "x", **params: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    model = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [message], **params}
    return {"custom_id": custom_id, "params": model}


def submitted(connection: Any, *custom_ids: str) -> str:
    new = Submission(new_id(), connection, SETTINGS, SubmissionOptions())
    new.spool([request(each) for each in custom_ids or ("a",)])
    new.enqueue(lambda _: None)
    return new.id


# -- requests ---------------------------------------------------------------------------------


def test_a_submitted_request_can_be_read(connection: Any, requests: RequestRecords) -> None:
    id = new_id()
    requests.submit(id, "claude-haiku-4-5", b'{"x":1}', RequestOptions(typed=True))
    record, text = requests.read(id), requests.text(id)
    assert record == requests.read(id)
    assert (record.id, record.state, record.epoch, record.n) == (id, State.QUEUED, 0, 1)
    assert (record.cancel, text) == ("", "")
    assert record.fields["typed"] == "1"
    assert record.fields["kind"] == "stream"
    assert int(record.fields["created_ms"]) > 1_700_000_000_000
    assert record.json("usage") is None
    keys = SETTINGS.keys.request(id)
    assert connection.get(keys.request) == b'{"x":1}'
    assert all(0 < connection.ttl(key) <= 100 for key in keys_of(connection, id))


def test_the_times_of_a_record_are_those_of_redis_whatever_the_clock_of_the_producer_is(
    connection: Any, requests: RequestRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() + 3_600 * 10**9)
    id = new_id()
    requests.submit(id, "claude-haiku-4-5", b"{}", RequestOptions(deadline_s=30))
    fields = requests.read(id).fields
    seconds, _ = connection.time()
    assert abs(int(fields["created_ms"]) // 1000 - seconds) <= 5
    assert int(fields["deadline_ms"]) - int(fields["created_ms"]) == 30_000


def test_an_id_that_is_in_use_is_refused(connection: Any, requests: RequestRecords) -> None:
    id = new_id()
    requests.submit(id, "m", b"first", RequestOptions())
    with pytest.raises(InvalidRequest, match="is in use") as caught:
        requests.submit(id, "m", b"second", RequestOptions())
    assert caught.value.field == "id"
    assert connection.get(SETTINGS.keys.request(id).request) == b"first"


def test_a_discarded_request_leaves_nothing(connection: Any, requests: RequestRecords) -> None:
    id = new_id()
    requests.submit(id, "m", b"{}", RequestOptions())
    assert connection.zscore(SETTINGS.keys.live, id) is not None
    requests.discard(id)
    assert keys_of(connection, id) == []
    assert connection.zscore(SETTINGS.keys.live, id) is None
    with pytest.raises(NotFound):
        requests.read(id)


def test_a_request_without_a_lease_is_canceled_once_and_at_once(
    connection: Any, requests: RequestRecords
) -> None:
    id = new_id()
    requests.submit(id, "m", b"{}", RequestOptions())
    assert requests.cancel(id, "alice") is State.QUEUED
    assert requests.cancel(id, "bob") is State.CANCELED
    record = requests.read(id)
    assert (record.state, record.n, record.cancel) == (State.CANCELED, 2, "alice")
    (_, fields) = connection.xrange(SETTINGS.keys.request(id).log)[-1]
    assert events.decode(fields[b"d"]).data == {
        "type": events.END,
        "state": "canceled",
        "stop_reason": None,
        "by": "alice",
    }
    lifetimes = [connection.ttl(key) for key in keys_of(connection, id)]
    assert all(0 < lifetime <= SETTINGS.retention_s for lifetime in lifetimes)


@pytest.mark.parametrize("call", ["read", "text", "cancel"])
@pytest.mark.parametrize(
    "id", ["01a20000-0000-7000-8000-000000000000", "nonsense", "", "*", "{x}:meta", "a\nb"]
)
def test_an_unknown_id_is_not_found_and_creates_no_key(
    connection: Any, requests: RequestRecords, call: str, id: str
) -> None:
    before = connection.dbsize()
    arguments = (id, "me") if call == "cancel" else (id,)
    with pytest.raises(NotFound):
        getattr(requests, call)(*arguments)
    assert connection.dbsize() == before


def test_the_remains_of_a_record_are_not_a_record(
    connection: Any, requests: RequestRecords
) -> None:
    id = new_id()
    meta = SETTINGS.keys.request(id).meta
    connection.hset(meta, "cancel", "by hand")
    connection.expire(meta, 100)
    with pytest.raises(NotFound):
        requests.read(id)


# -- jobs -------------------------------------------------------------------------------------


def test_a_submitted_job_can_be_read(connection: Any, records: JobRecords) -> None:
    id = submitted(connection, "a", "b")
    job = records.read(id)
    assert (job.id, job.state) == (id, State.QUEUED)
    assert job.counts == Counts(processing=2)
    assert [(shard.number, shard.state, shard.requests) for shard in job.shards] == [
        (0, "planned", 2)
    ]
    assert all(100 < connection.ttl(key) <= 200 for key in keys_of(connection, id))
    public = Batch.of(job)
    assert (public.processing_status, public.model) == ("in_progress", "claude-haiku-4-5")
    assert public.request_counts == Counts(processing=2)


def test_a_discarded_job_leaves_nothing(connection: Any, records: JobRecords) -> None:
    id = submitted(connection)
    keys = SETTINGS.keys.job(id)
    done = records.read(id).shards[0].evolve(results="results-0-1", result_chunks=1)
    connection.hset(keys.shards, 0, done.encode())
    connection.rpush(keys.chunks(done.results), *pack([b"{}"]))
    records.discard(id)
    assert keys_of(connection, id) == []
    assert id not in records.ids()
    assert connection.zscore(SETTINGS.keys.live_shards, f"{id}/0") is None


def test_jobs_are_listed_newest_first_without_expired_ones(
    connection: Any, records: JobRecords
) -> None:
    ids = [submitted(connection) for _ in range(4)]
    for age, id in enumerate(ids):
        connection.zadd(SETTINGS.keys.jobs, {id: 1_000 + age})
    connection.delete(SETTINGS.keys.job(ids[1]).meta)  # as if it had expired
    assert records.ids() == [ids[3], ids[2], ids[0]]
    assert connection.zscore(SETTINGS.keys.jobs, ids[1]) is None


def test_a_list_without_jobs_is_empty(records: JobRecords) -> None:
    assert records.ids() == []


@pytest.mark.parametrize("call", ["retrieve", "cancel", "delete"])
@pytest.mark.parametrize("id", [UNKNOWN, "msgbatch_1", ""])
def test_an_unknown_job_is_not_found(penstock_client: Client, call: str, id: str) -> None:
    with pytest.raises(NotFound):
        getattr(penstock_client.messages.batches, call)(id)


@pytest.mark.parametrize("call", ["events", "results", "result_lines"])
def test_an_unknown_job_has_no_events_and_no_results(penstock_client: Client, call: str) -> None:
    with pytest.raises(NotFound):
        next(getattr(penstock_client.messages.batches, call)(new_id()))


def test_a_running_job_has_no_results_and_is_not_deleted(
    connection: Any, penstock_redis: EmbeddedRedis, records: JobRecords
) -> None:
    id = submitted(connection)
    with Client(penstock_redis.url, key_prefix="contract") as client:
        batches = client.messages.batches
        with pytest.raises(NotEnded, match="has not ended"):
            next(batches.results(id))
        with pytest.raises(NotEnded, match="cancel it first"):
            batches.delete(id)
        assert batches.cancel(id, who="me").processing_status == "canceling"
        assert [batch.id for batch in batches.list()] == [id]
