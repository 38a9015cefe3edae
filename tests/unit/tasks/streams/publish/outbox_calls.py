"""The calls of an outbox with named arguments, and events to add to it."""

from dataclasses import dataclass
from typing import Any

import orjson

from penstock.keys import Keys
from tasks.streams.publish.outbox import Outbox, WriteCall

ID = "0190a5b0-0000-7000-8000-000000000001"
DEPLOYMENT = Keys("p")
KEYS = DEPLOYMENT.request(ID)


@dataclass(frozen=True)
class WriteArguments:
    """The arguments of one call of the write script."""

    worker: str
    epoch: int
    first: int
    ttl: int | str
    text: str
    fresh: bool
    final: str
    keep: int | str
    lines: list[bytes]
    fields: dict[str, Any]

    @property
    def data(self) -> list[dict[str, Any]]:
        """The events without their envelopes."""
        return [orjson.loads(line)["data"] for line in self.lines]

    @property
    def numbers(self) -> list[int]:
        """The numbers in the envelopes."""
        return [orjson.loads(line)["n"] for line in self.lines]


def parse_call(call: WriteCall) -> WriteArguments:
    worker, epoch, first, ttl, text, fresh, final, keep, count, *rest = call.args
    assert fresh in ("", "1")
    fields = rest[count:]
    return WriteArguments(
        worker=worker,
        epoch=epoch,
        first=first,
        ttl=ttl,
        text=text,
        fresh=fresh == "1",
        final=final,
        keep=keep,
        lines=rest[:count],
        fields=dict(zip(fields[::2], fields[1::2], strict=True)),
    )


def outbox(**options: Any) -> Outbox:
    defaults = {"worker": "w", "epoch": 3, "n": 10, "ttl_s": 600, "retention_s": 60}
    return Outbox(DEPLOYMENT, ID, **{**defaults, **options})


def next_write(box: Outbox) -> WriteArguments:
    """The arguments of the call to make now."""
    call = box.next_call()
    assert call is not None
    return parse_call(call)


def add(box: Outbox, *events: bytes) -> None:
    for raw in events:
        box.add(raw, orjson.loads(raw))


def delta(index: int, kind: str, field: str, value: str) -> bytes:
    data = {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: value}}
    return orjson.dumps(data)


def text(value: str, index: int = 0) -> bytes:
    return delta(index, "text_delta", "text", value)


def ok(n: int, cancel: bytes = b"") -> list[Any]:
    return [b"ok", n, cancel]


def gap(n: int) -> list[Any]:
    return [b"gap", n]
