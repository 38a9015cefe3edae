"""Checks a stream that has ended: the log against the truth, each reader against the log."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from penstock.events import ATTEMPT, END, QUEUED, REWIND
from penstock.streams.message_builder import MessageBuilder
from tests.chaos.plans import StreamPlan
from tests.chaos.readers import Reader


@dataclass(slots=True)
class Ended:
    """What Redis holds of a stream after its end."""

    log: list[bytes]
    text: str
    meta: dict[str, str]


@dataclass(slots=True)
class Findings:
    """What the checks found; ``faults`` is empty if there is no fault."""

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def check_stream(
    plan: StreamPlan, truth: list[dict[str, Any]], ended: Ended, readers: list[Reader]
) -> Findings:
    """Check the log, the text, the record and every reader of a stream."""
    found = Findings()
    events = [orjson.loads(line) for line in ended.log]
    _check_order(events, found)
    _check_content(plan, truth, events, ended, found)
    for each in readers:
        _check_reader(each, ended.log, found)
    datas = [event["data"] for event in events]
    for data in datas:
        if data["type"] == ATTEMPT:
            found.counts[f"resume {data['mode']}"] += 1
            found.counts["takeovers of a lost worker's or handed-over stream"] += (
                data["reason"] == "takeover"
            )
            if data["reason"] != "takeover":
                found.counts[f"interrupted by {data['reason']}"] += 1
        found.counts["rewinds"] += data["type"] == REWIND
    found.counts["events"] += len(events)
    found.counts["api_retries"] += int(ended.meta.get("api_retries", 0))
    found.counts["workers lost over a stream"] += int(ended.meta.get("worker_losses", 0))
    found.counts["wake-ups by the reaper"] += int(ended.meta.get("woken", 0))
    return found


def _check_order(events: list[dict[str, Any]], found: Findings) -> None:
    if [event["n"] for event in events] != list(range(1, len(events) + 1)):
        found.faults.append("the log's numbers are not contiguous")
    epochs = [event["e"] for event in events]
    if epochs != sorted(epochs):
        found.faults.append("epochs decrease")
    types = [event["data"]["type"] for event in events]
    if types[:1] != [QUEUED] or types.count(END) != 1 or types[-1:] != [END]:
        found.faults.append(
            f"wrong first or last event: {types[:1]} {types[-1:]} {types.count(END)}"
        )


def _check_content(
    plan: StreamPlan,
    truth: list[dict[str, Any]],
    events: list[dict[str, Any]],
    ended: Ended,
    found: Findings,
) -> None:
    builder = MessageBuilder()
    for event in events:
        builder.apply(event["data"])
    end, content = builder.end or {}, builder.content
    text, whole = text_of(content), text_of(truth)
    state = end.get("state")
    found.counts[f"ended {state}"] += 1
    if ended.meta.get("state") != state:
        found.faults.append(f"the record says {ended.meta.get('state')}, the end {state}")
    if ended.text != text:
        found.faults.append(f"the text key differs: {difference(ended.text, text)}")
    canceled = state == "canceled" and plan.cancel_after_s is not None
    may_fail = plan.malformed or plan.on_interrupt == "fail" or _given_up(plan, end)
    if canceled or (state == "failed" and may_fail):
        if not plan.exact:
            return
        _check_prefix(text, whole, found)
    elif state != "done":
        found.faults.append(f"ended {state}: {end.get('error')}")
    elif plan.cited and text == whole:
        found.counts["cited answers"] += 1
    elif content != truth and plan.exact:
        found.faults.append(f"content differs: {difference(content, truth)}")


def _given_up(plan: StreamPlan, end: dict[str, Any]) -> bool:
    """Whether a stream failed by the rule for the same fault at the same place, twice in a row.

    Only a plan that interrupts the answer twice can meet it: two of its faults may coincide.
    """
    interruptions = sum(" at " in fault for fault in plan.faults)
    message = str((end.get("error") or {}).get("message"))
    return interruptions > 1 and "the same fault occurred at the same place" in message


def _check_prefix(text: str, whole: str, found: Findings) -> None:
    if not whole.startswith(text):
        found.faults.append(f"the kept text is not a prefix of the answer: {text!r} of {whole!r}")


def _check_reader(reader: Reader, log: list[bytes], found: Findings) -> None:
    found.counts["readers"] += 1
    found.counts["events read"] += len(reader.received)
    found.counts["messages dropped on purpose"] += reader.dropped
    found.counts["refills"] += reader.refills
    found.counts["readers that disconnected and returned"] += reader.resumes
    if not reader.ended:
        found.faults.append(f"a reader hangs at {reader.epoch}-{reader.n}")
        found.counts["HUNG"] += 1
        return
    expected = log[reader.joined_at :]
    if reader.received != expected:
        numbers = Counter(orjson.loads(raw)["n"] for raw in reader.received)
        wanted = range(reader.joined_at + 1, len(log) + 1)
        lost = [n for n in wanted if n not in numbers]
        doubled = [n for n, count in numbers.items() if count > 1]
        found.counts["LOST"] += len(lost)
        found.counts["DOUBLED"] += len(doubled)
        found.counts["OTHER THAN THE LOG"] += not lost and not doubled
        found.faults.append(f"a reader differs: lost {lost[:9]} doubled {doubled[:9]}")
    if reader.text is not None:
        _check_snapshot(reader, log, found)


def _check_snapshot(reader: Reader, log: list[bytes], found: Findings) -> None:
    found.counts["snapshots"] += 1
    builder = MessageBuilder()
    for raw in log[: reader.joined_at]:
        builder.apply(orjson.loads(raw)["data"])
    if text_of(builder.content) != reader.text:
        found.faults.append(f"the snapshot at {reader.joined_at} differs: {reader.text!r}")


def text_of(content: list[dict[str, Any]]) -> str:
    """All visible text."""
    return "".join(block["text"] for block in content if block["type"] == "text")


def difference(found: Any, wanted: Any) -> str:
    """The first difference of two values, with some context of both."""
    one, other = repr(found), repr(wanted)
    places = (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    place = max(next(places, min(len(one), len(other))) - 30, 0)
    kinds = [block["type"] for block in found] if isinstance(found, list) else ""
    return f"{kinds} …{one[place : place + 120]} for …{other[place : place + 120]}"
