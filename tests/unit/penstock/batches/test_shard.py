"""The record of a shard, and counts of requests."""

import orjson
import pytest

from penstock.api_limits import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS
from penstock.batches.shard import Counts, Shard, ShardState
from penstock.errors import RecordUnreadable


def test_the_limits_of_a_batch_are_the_apis() -> None:
    assert (MAX_BATCH_REQUESTS, MAX_BATCH_BYTES) == (100_000, 256_000_000)


def test_counts_add_up() -> None:
    one, other = Counts(processing=1, succeeded=2), Counts(succeeded=3, errored=4, expired=5)
    assert one + other == Counts(processing=1, succeeded=5, errored=4, expired=5)
    assert (one + other).total == 15
    assert sum((), Counts()) == Counts()


def test_the_record_of_a_shard_is_parsed_as_it_was_encoded() -> None:
    shard = Shard(
        number=3,
        state="collected",
        requests=5,
        size=9_999,
        batch_id="msgbatch_1",
        counts=Counts(succeeded=5),
        usage={"m": {"input_tokens": 3}},
        watermark="msgbatch_0",
        betas=("a", "b"),
        size_by_model={"m": [100, 5]},
        abandoned_nonces=("nonce",),
    )
    assert Shard.parse(shard.encode()) == shard
    assert shard.evolve(state="ended").state == "ended"
    assert shard.state == "collected"


def test_a_field_of_a_newer_version_is_ignored_in_the_record_of_a_shard() -> None:
    newer = {**orjson.loads(Shard(number=0).encode()), "brand_new": 1}
    assert Shard.parse(orjson.dumps(newer)) == Shard(number=0)


def test_the_states_of_a_shard_are_stored_as_plain_strings() -> None:
    for state in ShardState:
        stored = Shard(number=0, state=state).encode()
        assert orjson.loads(stored)["state"] == state.value
        assert Shard.parse(stored).step.startswith("penstock.batch.")


def test_the_state_of_a_shard_written_by_a_newer_worker_is_read_as_it_is() -> None:
    assert Shard.parse(b'{"number":0,"state":"something_new"}').state == "something_new"


@pytest.mark.parametrize(
    "fields",
    [
        {"spool": "../../etc"},
        {"spool": "0/../../x"},
        {"results": "/etc/passwd"},
        {"results": "results-0\u0000"},
        {"live_results": "requests-0-1-a b"},
        {"failed_requests": "failed-" + "1" * 500},
        {"batch_id": "../../organizations"},
        {"batch_id": "msgbatch_1?x=y"},
        {"batch_id": "msgbatch_%2e%2e"},
        {"watermark": ".."},
        {"rejected": ["msgbatch_1", "a/b"]},
        {"rejected": [1]},
        {"nonce": '","params":{}},{"'},
        {"nonce": "%d" * 6},
        {"abandoned_nonces": ["a\nb"]},
        {"betas": ["a\r\nx-api-key: b"]},
        {"betas": [None]},
        {"requests": -1},
        {"requests": 10**12},
        {"number": -1},
    ],
)
def test_a_record_of_a_shard_is_refused_whose_value_would_leave_its_place(
    fields: dict[str, object],
) -> None:
    """In a path, a key, an address, a header or a body: every producer can write records."""
    (name,) = fields
    with pytest.raises(RecordUnreadable, match=name):
        Shard.parse(orjson.dumps({"number": 0, **fields}))


def test_the_values_that_workers_write_in_the_record_of_a_shard_are_accepted() -> None:
    shard = Shard(
        number=0,
        spool="0-1764537283000-shared",
        results="results-0-1764537283000",
        live_results="results-0-1",
        failed_requests="failed-0-1",
        batch_id="msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d",
        watermark="msgbatch_00",
        rejected=("msgbatch_02",),
        nonce="zzzzzzzzzzz0",
        abandoned_nonces=("yyyyyyyyyyyy",),
        betas=("files-api-2025-04-14",),
        requests=100_000,
    )
    assert Shard.parse(shard.encode()) == shard
