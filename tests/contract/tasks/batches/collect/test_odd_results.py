"""Result lines of unexpected types: each harms only its own request."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from penstock.batches.shard import Counts
from tasks.api.batches import BatchesApi
from tasks.batches.step_result import JobEnded, Next, Parked, RetryIn
from tests.contract.tasks.batches.batch_stage import NONCE, BatchStage, StagedJob

DEEP = b"[" * 2_000 + b"]" * 2_000


def rest(result: bytes) -> Callable[[bytes], bytes]:
    """Replace everything after the custom_id of a line."""
    return lambda line: b'%s,"result":%s}' % (line[: line.index(b',"result":')], result)


def message(**fields: Any) -> Callable[[bytes], bytes]:
    """Change fields of the message of a line."""

    def change(line: bytes) -> bytes:
        parsed = orjson.loads(line)
        parsed["result"]["message"] |= fields
        return orjson.dumps(parsed)

    return change


UNREADABLE = {
    "a message that is null": rest(b'{"type":"succeeded","message":null}'),
    "a message that is a list": rest(b'{"type":"succeeded","message":[]}'),
    "a result that is null": rest(b"null"),
    "a result that is a string": rest(b'"succeeded"'),
    "no result": lambda line: line[: line.index(b',"result":')] + b"}",
    "a type that is a list": rest(b'{"type":["succeeded"]}'),
    "an error that is null": rest(b'{"type":"errored","error":null}'),
    "an error type that is a list": rest(
        b'{"type":"errored","error":{"type":"error","error":{"type":[]}}}'
    ),
    "an error that is nested deeply": rest(b'{"type":"errored","error":%s}' % DEEP),
    "text that is not JSON": lambda line: line[:-30],
    "bytes that are not UTF-8": lambda line: line[:90] + b"\xff\xfe",
}
HARMLESS = {
    "content that is null": message(content=None),
    "content that is an object": message(content={"type": "text"}),
    "a text that is null": message(content=[{"type": "text", "text": None}]),
    "a stop reason that is an object": message(stop_reason={"type": "end_turn"}),
    "usage that is null": message(usage=None),
    "usage in strings": message(usage={"input_tokens": "7", "output_tokens": "9"}),
    "usage that is negative": message(usage={"input_tokens": -7, "output_tokens": -9}),
    "usage that is huge": message(usage={"input_tokens": 2**63, "output_tokens": 10**19 - 1}),
    "a model that is a list": message(model=["m"]),
    "a long integer": lambda line: line.replace(b'"content":', b'"n":%d,"content":' % 10**30, 1),
    "a number that is none": lambda line: line.replace(b'"content":', b'"n":NaN,"content":', 1),
    "half a surrogate pair": lambda line: line.replace(b'"text":"', b'"text":"\\ud83d', 1),
    "bytes in a text that are not UTF-8": lambda line: line.replace(
        b'"text":"', b'"text":"\xff', 1
    ),
}


@contextmanager
def changed_lines(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], place: int = 1
) -> Iterator[None]:
    """Let the API return another line for one request of each batch."""
    download = BatchesApi.results

    @contextmanager
    def results(api: BatchesApi, id: str, **options: Any) -> Iterator[Iterator[bytes]]:
        with download(api, id, **options) as pieces:
            lines = b"".join(pieces).split(b"\n")
        head = b"%s-%06d" % (NONCE.encode(), place)
        yield iter([(change(each) if head in each else each) + b"\n" for each in lines])

    with monkeypatch.context() as patched:
        patched.setattr(BatchesApi, "results", results)
        yield


def collect(job: StagedJob) -> int:
    """Collect until the shard has its results; returns the number of downloads."""
    for downloads in range(1, 20):
        if isinstance(step := job.collect(), Next):
            return downloads
        assert isinstance(step, RetryIn)
    raise AssertionError("the shard is never collected")


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_line_is_an_errored_result_and_the_others_are_delivered(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    job = stage.sent("a", "b", "c")
    with changed_lines(monkeypatch, change):
        assert collect(job) == 3
    results = job.results()
    assert [results[f"r-{place}"]["type"] for place in range(3)] == [
        *("succeeded", "errored", "succeeded"),
    ]
    odd = results["r-1"]
    assert odd["error"]["error"]["type"] == "unreadable_result"
    assert "raw" in odd or "raw_base64" in odd
    assert job.shard().counts == Counts(succeeded=2, errored=1)
    assert job.shard().errors == {"unreadable_result": 1}
    assert orjson.loads(job.meta("alert"))["type"] == "results_unreadable"
    assert isinstance(job.finish(), JobEnded)
    assert orjson.loads(job.meta("cost"))["excludes"] == ["unreadable_result"]


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_a_succeeded_line_with_odd_fields_stays_succeeded(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    job = stage.sent("a", "b", "c")
    with changed_lines(monkeypatch, change):
        assert collect(job) == 1
    assert job.shard().counts == Counts(succeeded=3)
    stored = b"\n".join(job.lines(job.shard().results, job.shard().result_chunks))
    assert stored.decode().count("\n") == 2
    assert job.meta("alert") == ""
    assert isinstance(job.finish(), JobEnded)
    assert all(count >= 0 for count in orjson.loads(job.meta("usage")).values())


def test_a_line_that_names_no_request_leaves_its_request_without_a_result(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stage.sent("a", "b", "c")
    without = re.compile(rb'"custom_id":"[^"]*"')
    with changed_lines(monkeypatch, lambda line: without.sub(b'"custom_id":7', line)):
        assert collect(job) == 9
    assert job.shard().errors == {"result_missing": 1}
    assert job.results()["r-1"]["error"]["error"]["type"] == "result_missing"


@pytest.mark.parametrize("odd", [b'"x"', b'""', b"7", b"null", b'"ABCDEFGHIJ01-000000"'])
def test_a_batch_whose_custom_ids_are_all_changed_is_not_sent_again(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch, odd: bytes
) -> None:
    """The API named the batch in its response, so it is the shard's and paid for."""
    job = stage.sent("a")
    batch_id = job.shard().batch_id
    custom_id = re.compile(rb'"custom_id":"[^"]*"')
    with changed_lines(
        monkeypatch, lambda line: custom_id.sub(b'"custom_id":' + odd, line), place=0
    ):
        for _ in range(20):
            assert isinstance(job.collect(), RetryIn)
        step = job.collect()
    assert isinstance(step, Parked)
    assert step.pause is not None
    assert step.pause["type"] == "results_incomplete"
    assert (job.shard().state, job.shard().batch_id) == ("ended", batch_id)


def test_an_unreadable_line_is_read_if_the_next_download_is_in_order(
    stage: BatchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stage.sent("a", "b", "c")
    with changed_lines(monkeypatch, lambda line: line[:-30], place=2):
        assert isinstance(job.collect(), RetryIn)
    assert isinstance(job.collect(), Next)
    assert job.shard().counts == Counts(succeeded=3)
