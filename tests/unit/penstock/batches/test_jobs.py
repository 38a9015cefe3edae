"""Batch jobs without Redis: shard records, options of a job, and chunks of lines."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.api_limits import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS
from penstock.batches.options import MAX_CANARY, SubmissionOptions
from penstock.batches.shard import Counts, Shard
from penstock.errors import InvalidRequest
from penstock.spool.chunks import CHUNK_BYTES, Packer, compressor, lines_of, pack, unpack

#: What Python or a careless splitter takes for the end of a line.
AWKWARD = "\r \n \r\n \u2028 \u2029 \u0085 \x0b \x0c \x1c \x1d \x1e"
awkward = st.text(
    st.sampled_from(AWKWARD + 'ab日🚰"\\{}[]') | st.characters(exclude_categories=["Cs"])
)
values = st.dictionaries(awkward, awkward | st.integers(-5, 5) | st.none(), max_size=3)


# -- chunks -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, max_size=12), st.integers(1, 200))
def test_lines_come_out_of_their_chunks_as_they_went_in(
    objects: list[dict[str, Any]], size: int
) -> None:
    lines = [orjson.dumps(each) for each in objects]
    packer = Packer(size)
    packed = [packer.add(line) for line in lines] + [packer.flush()]
    assert [line for chunk in packed if chunk for line in lines_of(chunk)] == lines


def test_a_line_larger_than_a_chunk_ends_its_chunk() -> None:
    line = b"x" * (CHUNK_BYTES + 1)
    assert [lines_of(chunk) for chunk in pack([b"a", line, b"b"])] == [[b"a", line], [b"b"]]


def test_lines_are_read_only_as_fast_as_their_chunks_are_taken() -> None:
    """A job of a million lines never lies in memory."""
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1023

    next(pack(endless()))
    assert read == CHUNK_BYTES // 1024


def test_no_lines_are_no_chunk() -> None:
    assert list(pack([])) == []


def test_a_block_of_lines_is_the_same_chunk_as_its_lines() -> None:
    assert unpack(compressor().compress(bytearray(b"a\nb\n"))) == unpack(next(pack([b"a", b"b"])))


# -- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("betas", "one", "betas"),
        ("betas", ["a,b"], "betas"),
        ("betas", ["a b"], "betas"),
        ("betas", [""], "betas"),
        ("betas", [5], "betas"),
        ("betas", None, "betas"),
        ("headers", {"x-api-key": "secret"}, "extra_headers.x-api-key"),
        ("headers", {"anthropic-beta": "a\nb"}, "extra_headers.anthropic-beta"),
        ("max_cost_usd", 0, "max_cost_usd"),
        ("max_cost_usd", -1.0, "max_cost_usd"),
        ("max_cost_usd", float("nan"), "max_cost_usd"),
        ("max_cost_usd", float("inf"), "max_cost_usd"),
        ("max_cost_usd", "5", "max_cost_usd"),
        ("max_cost_usd", True, "max_cost_usd"),
        ("canary", -1, "canary"),
        ("canary", MAX_CANARY + 1, "canary"),
        ("canary", 1.0, "canary"),
        ("canary", True, "canary"),
        ("shard_requests", 0, "shard_requests"),
        ("shard_requests", MAX_BATCH_REQUESTS + 1, "shard_requests"),
        ("shard_requests", "10", "shard_requests"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_its_name(
    option: str, value: Any, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SubmissionOptions(**{option: value})
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


def test_options_at_their_limits_are_taken() -> None:
    assert SubmissionOptions(
        max_cost_usd=0.01, canary=MAX_CANARY, shard_requests=MAX_BATCH_REQUESTS
    )
    assert SubmissionOptions(max_cost_usd=5, canary=0, shard_requests=1)


def test_betas_are_taken_out_of_the_headers_sorted_and_each_once() -> None:
    options = SubmissionOptions(
        betas=["b", "a", "b"], headers={"Anthropic-Beta": "c, a", "anthropic-version": "2023-06-01"}
    )
    assert options.all_betas == ("a", "b", "c")
    assert options.other_headers == {"anthropic-version": "2023-06-01"}


# -- records ----------------------------------------------------------------------------------


def test_the_limits_are_the_apis() -> None:
    assert (MAX_BATCH_REQUESTS, MAX_BATCH_BYTES) == (100_000, 256_000_000)


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
        betas=("a", "b"),
        size_by_model={"m": [100, 5]},
        abandoned_nonces=("nonce",),
    )
    assert Shard.parse(shard.encode()) == shard
    assert shard.evolve(state="ended").state == "ended"
    assert shard.state == "collected"


def test_a_shard_with_a_field_from_a_newer_version_can_be_read() -> None:
    newer = {**orjson.loads(Shard(number=0).encode()), "brand_new": 1}
    assert Shard.parse(orjson.dumps(newer)) == Shard(number=0)
