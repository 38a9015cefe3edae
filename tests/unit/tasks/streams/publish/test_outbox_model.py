"""Outbox and write script together, with lost replies and a Redis that loses writes.

Every text is written exactly once.

`Log` is a model of ``write.lua`` in Python, by its contract; tests/contract has the real one.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import events
from penstock.events import decode
from tasks.streams.publish import outbox as outbox_module
from tasks.streams.publish.outbox import Outbox, WriteCall
from tests.unit.tasks.streams.publish.outbox_calls import outbox, parse_call

STEPS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Log:
    """What Redis holds of one request: before its claim, only the producer's event."""

    epoch: int = 0
    worker: str = ""
    n: int = 1
    state: str = "queued"
    text: str = ""
    lines: list[bytes] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def claim(self, worker: str) -> None:
        self.epoch, self.worker, self.state = self.epoch + 1, worker, "running"

    def write(self, call: WriteCall) -> list[Any]:
        wanted = parse_call(call)
        mine, count = wanted.epoch, len(wanted.lines)
        if self.epoch > mine or (self.epoch == mine and self.worker != wanted.worker):
            return [b"fenced", self.epoch]
        if count and wanted.first + count - 1 <= self.n:
            return [b"ok", self.n, b""]
        if self.state in ("done", "failed", "canceled"):
            return [b"fenced", self.epoch]
        if count and wanted.first != self.n + 1:
            return [b"gap", self.n]
        self.epoch, self.worker, self.state = mine, wanted.worker, wanted.final or "running"
        self.lines += wanted.lines
        self.meta.update(wanted.fields)
        self.n += count
        self.text = ("" if wanted.fresh else self.text) + wanted.text
        return [b"ok", self.n, b""]


class Redis:
    """A log, and the copy of it that survives a restart."""

    def __init__(self) -> None:
        self.log = Log()
        self._disk = deepcopy(self.log)  # without the claim
        self.log.claim("w")

    def sync(self) -> None:
        self._disk = deepcopy(self.log)

    def restart(self) -> None:
        self.log = deepcopy(self._disk)


def delta(kind: str, name: str, index: int, piece: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: piece}}


pieces = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
adds = st.one_of(
    st.builds(delta, st.just("text_delta"), st.just("text"), st.integers(0, 1), pieces),
    st.builds(delta, st.just("thinking_delta"), st.just("thinking"), st.just(0), pieces),
    st.builds(delta, st.just("input_json_delta"), st.just("partial_json"), st.just(1), pieces),
    st.builds(delta, st.just("signature_delta"), st.just("signature"), st.just(0), pieces),
    st.just({"type": "content_block_stop", "index": 0}),
)
#: A call is written and acknowledged, written with its reply lost, or lost before it is written.
#: Redis syncs everything to disk, or restarts and loses what it had not synced; or the lease is
#: renewed, and the reply says where the log ends.
fates = st.sampled_from(["answered", "answered", "answer lost", "call lost"])
mishaps = st.sampled_from(["synced", "restarted", "renewed"])
noted = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 9), min_size=1)
notes = noted.map(lambda fields: ("note", fields))
rewinds = st.one_of(st.none(), st.text("ab", max_size=3)).map(lambda left: ("rewind", left))
steps = st.lists(st.one_of(adds, adds, fates, fates, notes, rewinds), max_size=60)
ends = ["restarted", "renewed", "call lost", "answer lost"]
endings = st.lists(st.sampled_from(ends), max_size=4)
mishap_steps = st.lists(st.one_of(adds, fates, fates, mishaps, notes, rewinds), max_size=80)


class Stream:
    """An outbox, and the log that it should produce."""

    def __init__(self) -> None:
        self.redis = Redis()
        self.box = outbox(epoch=1, n=1)
        self.added: list[dict[str, Any]] = []
        self.text = ""
        self.meta: dict[str, Any] = {}

    def apply(self, step: Any) -> None:
        if isinstance(step, dict):
            self.box.add(orjson.dumps(step), step)
            self.added.append(step)
            if step.get("delta", {}).get("type") == "text_delta":
                self.text += step["delta"]["text"]
        elif isinstance(step, str):
            self.meet(step)
        elif step[0] == "note":
            self.box.note(**step[1])
            self.meta.update(step[1])
        else:
            self.box.rewind(0, 0, left=step[1])
            self.added.append({"type": events.REWIND, "index": 0, "offset": 0})
            self.text = self.text if step[1] is None else step[1]

    def meet(self, fate: str) -> None:
        if fate == "synced":
            self.redis.sync()
        elif fate == "restarted":
            self.redis.restart()
        elif fate == "renewed":
            if not self.box.ending:  # as in the publisher
                self.box.check_log_end(self.redis.log.n)
        else:
            flush(self.box, self.redis.log, fate)

    def finish(self, fates: Sequence[str] = ()) -> None:
        self.box.end({"state": "done"}, ended_ms=1)
        for fate in fates:
            self.meet(fate)
        while not self.box.acknowledged:
            flush(self.box, self.redis.log, "answer lost")
            flush(self.box, self.redis.log, "answered")


def flush(box: Outbox, log: Log, fate: str) -> None:
    call = box.next_call()
    if call is None:
        return
    if fate != "call lost":
        reply = log.write(call)
        if fate == "answered":
            box.apply_reply(reply)


def folded(data: list[dict[str, Any]]) -> list[Any]:
    """Events with all adjacent deltas merged, so that it does not matter how they were cut."""
    found: list[list[Any]] = []
    for each in data:
        kind = each.get("delta", {}).get("type", each["type"])
        name = {"text_delta": "text", "thinking_delta": "thinking"}.get(kind, "partial_json")
        place = [kind, each.get("index")]
        piece = each.get("delta", {}).get(name)
        if piece is not None and found and found[-1][:2] == place:
            found[-1][2] += piece
        else:
            found.append([*place, piece if piece is not None else each])
    return found


def assert_whole(stream: Stream) -> None:
    """Check that every event was written once and in order."""
    log = stream.redis.log
    written = [decode(line) for line in log.lines]
    assert [event.n for event in written] == list(range(2, 2 + len(written)))
    assert [event.type for event in written].index(events.END) == len(written) - 1
    assert folded([event.data for event in written[:-1]]) == folded(stream.added)
    assert log.text == stream.text
    assert (log.state, log.epoch, stream.box.lost) == ("done", 1, "")


@settings(STEPS, max_examples=400)
@given(mishap_steps, endings, endings)
def test_whatever_redis_or_the_network_loses_each_event_is_written_once_in_order(
    happened: list[Any], before_end: list[str], after_end: list[str]
) -> None:
    """The exception is fields written without an event at the end of the log: a loss of those goes
    unnoticed."""
    stream = Stream()
    for step in [*happened, *before_end]:
        stream.apply(step)
    stream.finish(after_end)
    assert_whole(stream)
    if "restarted" not in [*happened, *before_end, *after_end]:
        assert stream.redis.log.meta == {**stream.meta, "ended_ms": 1}


@STEPS
@given(mishap_steps, endings)
def test_events_that_need_several_calls_are_written_once_in_order(
    happened: list[Any], fates: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_module, "EVENTS_PER_CALL_LIMIT", 2)
        stream = Stream()
        for step in happened:
            stream.apply(step)
        stream.finish(fates)
        assert_whole(stream)


@STEPS
@given(steps, steps)
def test_after_a_takeover_the_first_writer_writes_nothing(
    before: list[Any], after: list[Any]
) -> None:
    stream = Stream()
    for step in before:
        stream.apply(step)
    stream.redis.log.claim("another")
    kept = deepcopy(stream.redis.log)
    for step in after:
        stream.apply(step)
    stream.box.end({"state": "done"})
    flush(stream.box, stream.redis.log, "answered")
    assert stream.redis.log == kept
    assert stream.box.acknowledged
    assert stream.box.lost


@STEPS
@given(steps, steps)
def test_a_claim_that_redis_lost_and_gave_to_another_fences_the_first_worker(
    before: list[Any], after: list[Any]
) -> None:
    """Both have the same epoch; the worker's name distinguishes them."""
    stream = Stream()
    for step in before:
        stream.apply(step)
    stream.redis.restart()
    stream.redis.log.claim("another")
    kept = deepcopy(stream.redis.log)
    assert kept.epoch == stream.box.epoch
    for step in after:
        stream.apply(step)
    stream.box.end({"state": "done"})
    flush(stream.box, stream.redis.log, "answered")
    assert stream.redis.log == kept
    assert stream.box.lost
