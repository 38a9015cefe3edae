"""What one stream has to write to Redis: numbered, merged while it waits, sent until it stands.

Pure: `take` gives the arguments of one call of the write script, `settle` takes its answer.
While a call is under way, deltas of the same block that come in are merged into one event; an
idle stream therefore sends every delta at once, and a busy one sends fewer, larger events.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from penstock import events
from penstock.keys import RequestKeys
from penstock.states import State

#: Delta type → its field. These say the same whether they come in one piece or in many.
MERGED: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}


@dataclass(slots=True)
class _Entry:
    """One event that waits to be written."""

    raw: bytes  #: its JSON as it came, unless something was merged into it
    index: int = -1  #: the block of a delta that can be merged; -1 otherwise
    kind: str = ""
    parts: list[str] = field(default_factory=list)

    def render(self) -> bytes:
        if len(self.parts) < 2:
            return self.raw
        delta = {"type": self.kind, MERGED[self.kind]: "".join(self.parts)}
        return orjson.dumps({"type": "content_block_delta", "index": self.index, "delta": delta})


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the write script; sent again unchanged until Redis has answered."""

    keys: list[str]
    args: list[Any]


class Outbox:
    """The events of one claimed stream on their way to Redis."""

    def __init__(
        self,
        keys: RequestKeys,
        *,
        epoch: int,
        n: int,
        ttl_s: int,
        retention_s: int,
        typed: bool = False,
    ) -> None:
        self.keys = keys
        self.epoch = epoch
        self.lost = ""  #: why this worker may not write any more; empty while it may
        self.cancel = ""  #: who asked for the stream to be canceled
        self._n = n  # number of the last event that stands in the log
        self._ttl_s = ttl_s
        self._retention_s = retention_s
        self._entries: list[_Entry] = []
        self._text: list[str] = []
        self._meta: dict[str, Any] = {}
        self._final = ""
        self._call: Call | None = None
        self._count = 0  # events in the call under way
        self._calls = 0
        self._names = [keys.meta, keys.log, keys.lease, keys.events, keys.text, keys.request]
        if typed:
            self._names.append(keys.typed)

    def add(self, raw: bytes, data: dict[str, Any]) -> None:
        """Take one of the API's events: ``raw`` is its JSON, ``data`` the same, parsed."""
        delta = data.get("delta") if data.get("type") == "content_block_delta" else None
        if not isinstance(delta, dict) or not isinstance(data.get("index"), int):
            self._entries.append(_Entry(raw))
            return
        kind, index = delta.get("type", ""), data["index"]
        piece = delta.get(MERGED.get(kind, ""))
        if kind == "text_delta" and piece:
            self._text.append(piece)
        if piece is None or len(data) > 3 or len(delta) > 2:
            # Not merged: a field that is new to the API must not come and go with the load.
            self._entries.append(_Entry(raw))
            return
        last = self._entries[-1] if self._entries else None
        if last is not None and last.index == index and last.kind == kind:
            last.parts.append(piece)
        else:
            self._entries.append(_Entry(raw, index, kind, [piece]))

    def add_own(self, data: dict[str, Any]) -> None:
        """Take one of Penstock's own events."""
        self._entries.append(_Entry(orjson.dumps(data)))

    def note(self, **fields: Any) -> None:
        """Have fields of the record written along with the next events."""
        self._meta.update(fields)

    def end(self, data: dict[str, Any], **fields: Any) -> None:
        """Take the last event; state, log and message change in one step."""
        self._final = State(data["state"])
        self.note(**fields)
        self.add_own({"type": events.END, **data})

    @property
    def settled(self) -> bool:
        """Whether nothing is left to write, or nothing may be written any more."""
        return bool(self.lost) or (self._call is None and not self._entries and not self._meta)

    @property
    def ending(self) -> bool:
        """Whether the last event was taken in; what comes back as lost after it is only late."""
        return bool(self._final)

    def take(self) -> Call | None:
        """The call to make now: the unanswered one again, or the next. None: nothing to do."""
        if self.lost:
            return None
        if self._call is None and (self._entries or self._meta):
            self._call = self._next()
        return self._call

    def _next(self) -> Call:
        first = self._n + 1
        lines = [
            events.wrap(self.epoch, first + i, entry.render())
            for i, entry in enumerate(self._entries)
        ]
        meta = [item for pair in self._meta.items() for item in pair]
        text = "".join(self._text)
        self._count = len(lines)
        args = [self.epoch, first, self._renewal(), text, self._final, len(lines), *lines, *meta]
        self._entries, self._text, self._meta = [], [], {}
        self._calls += 1
        return Call(self._names, args)

    def settle(self, reply: list[Any]) -> None:
        """Take the script's answer to the call."""
        verdict = reply[0]
        if verdict == b"ok":
            self._n += self._count
            self.cancel = self.cancel or reply[2].decode()
            self._call = None
        elif verdict == b"fenced":
            self.lost = "another worker has claimed it, or it has ended"
        elif verdict == b"gone":
            self.lost = "its record has expired or was deleted"
        else:
            self.lost = f"its log ends at {reply[1]}, not at {self._n}"

    def _renewal(self) -> int | str:
        """The lifetime to set with this call; only every so often, since it costs three EXPIREs."""
        if self._final:
            return self._retention_s
        return self._ttl_s if self._calls % 256 == 0 else ""
