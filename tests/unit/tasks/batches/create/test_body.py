"""The body of a create call is complete and correct, or its last bytes are held back."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.batches.shard import Shard
from penstock.batches.wire import EMPTY_BODY_BYTES, REQUEST_BYTES
from penstock.spool.chunks import pack
from tasks.batches.create.body import BodyMismatch, Upload

NONCE = "n" * 12


class Chunks:
    """A chunk store with one name."""

    def __init__(self, lines: list[bytes]) -> None:
        self.chunks = list(pack(lines))

    def read(self, name: str, count: int, first: int = 0) -> Iterator[bytes]:
        assert (name, count, first) == ("requests-s", len(self.chunks), 0)
        yield from self.chunks


def upload(lines: list[bytes], before_end: Any = lambda: None, **changes: Any) -> Upload:
    size = EMPTY_BODY_BYTES + len(lines) - 1 + sum(len(line) + REQUEST_BYTES for line in lines)
    store: Any = Chunks(lines)
    shard = Shard(
        number=0,
        nonce=NONCE,
        spool="s",
        requests=len(lines),
        size=size,
        request_chunks=len(store.chunks),
    )
    return Upload(shard.evolve(**changes), store, before_end)


@settings(max_examples=30)
@given(st.lists(st.text(), min_size=1, max_size=6), st.sampled_from([0, 300_000]))
def test_the_body_is_the_json_that_the_api_expects(texts: list[str], padding: int) -> None:
    params = [{"text": text, "padding": "x" * padding} for text in texts]
    body = upload([orjson.dumps(each) for each in params])
    pieces = list(body)
    assert orjson.loads(b"".join(pieces)) == {
        "requests": [
            {"custom_id": f"{NONCE}-{n:06d}", "params": each} for n, each in enumerate(params)
        ]
    }
    assert sum(map(len, pieces)) == body._shard.size
    assert body.complete
    assert body.error is None


def test_before_end_is_called_when_all_but_the_last_bytes_are_sent() -> None:
    seen: list[bytes] = []
    called: list[int] = []
    body = upload([b"{}"], lambda: called.append(len(seen)))
    for piece in body:
        seen += [piece]
    assert called == [1]
    assert seen == [b'{"requests":[{"custom_id":"nnnnnnnnnnnn-000000","params":{}', b"}]}"]


def fail() -> None:
    raise ConnectionError("no")


def test_the_last_bytes_are_held_back_if_before_end_raises() -> None:
    body = upload([b"{}"], fail)
    seen: list[bytes] = []
    with pytest.raises(ConnectionError):
        seen.extend(iter(body))
    assert not body.complete
    assert isinstance(body.error, ConnectionError)


@pytest.mark.parametrize("changes", [{"requests": 2}, {"size": 99}])
def test_a_body_that_differs_from_the_record_is_not_completed(changes: dict[str, int]) -> None:
    def never() -> None:
        raise AssertionError("before_end was called")

    body = upload([b"{}"], never, **changes)
    with pytest.raises(BodyMismatch, match="expected"):
        list(body)
    assert not body.complete


def test_the_last_bytes_are_held_back_if_before_end_took_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = iter([0.0, 31.0])
    monkeypatch.setattr("tasks.batches.create.body.time.monotonic", lambda: next(moments))
    body = upload([b"{}"])
    with pytest.raises(TimeoutError):
        list(body)
    assert not body.complete
