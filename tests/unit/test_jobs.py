"""Spooled requests: packed, unpacked and sent as exactly the bytes that were counted."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import jobs
from penstock.errors import InvalidRequest
from penstock.jobs import chunks, create_body, unpacked
from penstock.requests import encode_body
from penstock.shards import Counts, Shard

PARAMS = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}
#: What Python or a careless splitter takes for the end of a line.
AWKWARD = "\r \n \r\n \u2028 \u2029 \u0085 \x0b \x0c \x1c \x1d \x1e"
awkward = st.text(
    st.sampled_from(AWKWARD + 'ab日🚰"\\{}[]') | st.characters(exclude_categories=["Cs"])
)
values = st.dictionaries(awkward, awkward | st.integers(-5, 5) | st.none(), max_size=3)


def request(custom_id: str, text: str = "x", **params: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"custom_id": custom_id, "params": {**PARAMS, "messages": messages, **params}}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, max_size=12), st.integers(1, 200))
def test_lines_come_out_of_their_chunks_as_they_went_in(
    objects: list[dict[str, Any]], size: int
) -> None:
    lines = [orjson.dumps(each) for each in objects]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "CHUNK_BYTES", size)
        packed = list(chunks(line + b"\n" for line in lines))
    assert [line for chunk in packed for line in unpacked(chunk)] == lines


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(awkward, min_size=1, max_size=12))
def test_the_body_is_as_long_as_was_counted_and_holds_every_request(texts: list[str]) -> None:
    requests = [request(f"id-{i}", text) for i, text in enumerate(texts)]
    check = jobs._LineCheck()
    packed = list(chunks(check(requests)))
    lines = [line for chunk in packed for line in unpacked(chunk)]
    body = b"".join(create_body(lines))
    assert len(body) == check.size
    assert orjson.loads(body) == {"requests": requests}
    assert check.requests == len(requests)


def test_a_body_without_requests_is_still_a_body() -> None:
    assert b"".join(create_body([])) == b'{"requests":[]}'


def test_a_line_larger_than_a_chunk_is_a_chunk_of_its_own() -> None:
    line = b"x" * (jobs.CHUNK_BYTES + 1)
    packed = list(chunks([b"a\n", line + b"\n", b"b\n"]))
    assert [unpacked(chunk) for chunk in packed] == [[b"a", line], [b"b"]]


def test_requests_are_read_only_as_fast_as_their_chunks_are_taken() -> None:
    """A job of a million lines never lies in memory."""
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1023 + b"\n"

    packed = chunks(endless())
    next(packed)
    assert read == jobs.CHUNK_BYTES // 1024


def spooled(requests: Any) -> jobs._LineCheck:
    check = jobs._LineCheck()
    for _ in check(requests):
        pass
    return check


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([request("a"), 5], "line 2: must be an object, not int"),
        ([request("a"), request("b"), {}], "line 3: custom_id: a string is required"),
        ([request("a"), {"custom_id": "b"}], "line 2: params: must be an object, not NoneType"),
        ([request("a", model="")], "line 1: params.model: "),
        ([request("a"), request("b", stream=True)], "line 2: params.stream: "),
        (
            [request("a"), request("b"), request("c"), request("b")],
            "line 4: custom_id: 'b' was used in line 2 already",
        ),
        ([request("a", metadata=object())], "line 1: cannot be written as JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_is_refused_by_its_line(requests: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spooled(requests)
    assert str(caught.value).startswith(message)


def test_the_model_of_a_job_is_that_of_its_first_request() -> None:
    two = [request("a", model="claude-first"), request("b", model="claude-second")]
    assert spooled(two).model == "claude-first"


def test_a_job_may_have_exactly_as_many_requests_as_the_api_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "MAX_BATCH_REQUESTS", 3)
    assert spooled(request(str(i)) for i in range(3)).requests == 3
    with pytest.raises(InvalidRequest, match="line 4: more than 3 requests"):
        spooled(request(str(i)) for i in range(4))


def test_a_job_may_be_exactly_as_large_as_the_api_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    three = [request(str(i)) for i in range(3)]
    size = len(b"".join(create_body(encode_body(each) for each in three)))
    monkeypatch.setattr(jobs, "MAX_BATCH_BYTES", size)
    assert spooled(three).size == size
    with pytest.raises(InvalidRequest, match=r"line 3: more than .* bytes of requests"):
        spooled([*three[:2], request("2", "xx")])


def test_the_limits_are_the_apis() -> None:
    assert (jobs.MAX_BATCH_REQUESTS, jobs.MAX_BATCH_BYTES) == (100_000, 256_000_000)


def test_counts_add_up() -> None:
    one, other = Counts(processing=1, succeeded=2), Counts(succeeded=3, errored=4, expired=5)
    assert one + other == Counts(processing=1, succeeded=5, errored=4, expired=5)
    assert (one + other).total == 15
    assert sum((), Counts()) == Counts()


def test_a_shards_record_reads_back_what_it_was() -> None:
    shard = Shard(
        number=3,
        state="collected",
        requests=5,
        size=9_999,
        batch_id="msgbatch_1",
        counts=Counts(succeeded=5),
        usage={"m": {"input_tokens": 3}},
        watermark="msgbatch_0",
    )
    assert Shard.parse(shard.encode()) == shard
    assert shard.but(state="ended").state == "ended"
    assert shard.state == "collected"


def test_a_shard_with_a_field_from_a_newer_version_can_be_read() -> None:
    newer = {**orjson.loads(Shard(number=0).encode()), "brand_new": 1}
    assert Shard.parse(orjson.dumps(newer)) == Shard(number=0)
