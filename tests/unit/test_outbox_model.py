"""Outbox and write script together, with answers that get lost: every text exactly once.

`Log` is a model of ``write.lua`` in Python, by its contract; tests/contract has the real one.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import events
from penstock.events import decode
from penstock.keys import Keys
from tasks.outbox import Call, Outbox

KEYS = Keys("p").request("0190a5b0-0000-7000-8000-000000000001")


@dataclass
class Log:
    """What Redis holds of one request."""

    epoch: int = 1
    n: int = 1
    state: str = "running"
    text: str = ""
    lines: list[bytes] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def write(self, call: Call) -> list[Any]:
        epoch, first, _ttl, text, final, count = call.args[:6]
        if epoch != self.epoch:
            return [b"fenced", self.epoch]
        if count and first + count - 1 <= self.n:
            return [b"ok", self.n, b""]
        if self.state != "running":
            return [b"fenced", self.epoch]
        if count and first != self.n + 1:
            return [b"gap", self.n]
        self.lines += call.args[6 : 6 + count]
        rest = call.args[6 + count :]
        self.meta.update(zip(rest[::2], rest[1::2], strict=True))
        self.n += count
        self.text += text
        self.state = final or self.state
        return [b"ok", self.n, b""]


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
#: What happens to a call: it is written and answered, written and the answer lost, lost before.
fates = st.sampled_from(["answered", "answered", "answer lost", "call lost"])
noted = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 9), min_size=1)
steps = st.lists(st.one_of(adds, fates, noted.map(lambda m: ("note", m))), max_size=60)


def flush(box: Outbox, log: Log, fate: str) -> None:
    call = box.take()
    if call is None:
        return
    if fate != "call lost":
        reply = log.write(call)
        if fate == "answered":
            box.settle(reply)


def folded(data: list[dict[str, Any]]) -> list[Any]:
    """Events with all neighbours merged, so that it does not matter how they were cut."""
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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_whatever_is_lost_on_the_way_everything_is_written_once_and_in_order(
    happened: list[Any],
) -> None:
    log, box = Log(), Outbox(KEYS, epoch=1, n=1, ttl_s=60, retention_s=6)
    added: list[dict[str, Any]] = []
    meta: dict[str, Any] = {}
    for step in happened:
        if isinstance(step, str):
            flush(box, log, step)
        elif isinstance(step, tuple):
            box.note(**step[1])
            meta.update(step[1])
        else:
            box.add(orjson.dumps(step), step)
            added.append(step)
    box.end({"state": "done"}, ended_ms=1)
    while not box.settled:
        flush(box, log, "answer lost")
        flush(box, log, "answered")
    written = [decode(line) for line in log.lines]
    assert [event.n for event in written] == list(range(2, 2 + len(written)))
    assert written[-1].type == events.END
    assert folded([event.data for event in written[:-1]]) == folded(added)
    deltas = [e["delta"] for e in added if "delta" in e]
    assert log.text == "".join(d["text"] for d in deltas if d["type"] == "text_delta")
    assert log.meta == {**meta, "ended_ms": 1}
    assert (log.state, box.lost) == ("done", "")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, steps)
def test_after_a_takeover_nothing_of_the_first_writer_is_written(
    before: list[Any], behind: list[Any]
) -> None:
    log, box = Log(), Outbox(KEYS, epoch=1, n=1, ttl_s=60, retention_s=6)
    for steps_of, taken_over in ((before, False), (behind, True)):
        if taken_over:
            log.epoch = 2
            kept = (log.n, log.text, list(log.lines))
        for step in steps_of:
            if isinstance(step, str):
                flush(box, log, step)
            elif isinstance(step, dict):
                box.add(orjson.dumps(step), step)
    box.end({"state": "done"})
    flush(box, log, "answered")
    assert (log.n, log.text, log.lines) == kept
    assert box.settled
    assert box.lost
