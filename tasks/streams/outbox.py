"""What one stream has to write to Redis: numbered, merged while it waits, sent until it stands.

Pure: `take` gives the arguments of one call of the write script, `settle` takes its answer.
While a call is under way, deltas of the same block that come in are merged into one event; an
idle stream therefore sends every delta at once, and a busy one sends fewer, larger events.

What was written stays in memory for a while: a Redis that is restarted may have lost the end of
its log, and says so with the next call (``gap``); then the same lines are written again.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from penstock import events
from penstock.keys import Keys
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.request_scripts import Gap, Gone, Written
from penstock.store.scripts import Fenced, ScriptCall

#: Delta type → its field. These say the same whether they come in one piece or in many.
MERGED: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}

#: So many bytes of written events are kept for a Redis that forgets. With ``appendfsync everysec``
#: it forgets a second or two; at 40 deltas a second this is about five.
KEPT_BYTES: Final = 80 * 1024
#: What a call takes in memory beside its text.
CALL_BYTES: Final = 250


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


class _Written(NamedTuple):
    """One call's events and what they did to the record, in case they have to be written again."""

    first: int
    lines: tuple[bytes, ...]
    text: str
    fresh: bool  #: the text was emptied first
    meta: tuple[tuple[str, Any], ...]
    final: str  #: the state that it sets; not that of an end which came in behind it
    size: int  #: bytes in memory, about


#: A `_Written` while it is kept. Hundreds of streams keep tens of thousands of them, and a plain
#: tuple of plain values is what the garbage collector does not look at again and again.
_Kept = tuple[Any, ...]


#: One call of the write script; sent again unchanged until Redis has answered.
Call: TypeAlias = ScriptCall[request_scripts.WriteReply]


class Outbox:
    """The events of one claimed stream on their way to Redis."""

    def __init__(
        self,
        keys: Keys,
        id: str,
        *,
        worker: str,
        epoch: int,
        n: int,
        ttl_s: int,
        retention_s: int,
        log_limit: int = 0,
        typed: bool = False,
    ) -> None:
        self.id = id
        self.keys = keys.request(id)
        self.worker = worker
        self.epoch = epoch
        self.lost = ""  #: why this worker may not write any more; empty while it may
        self.cancel = ""  #: who asked for the stream to be canceled
        self._n = n  # number of the last event that stands in the log
        self.ttl_s = ttl_s
        self._retention_s = retention_s
        self._log_limit = log_limit
        self._entries: list[_Entry] = []
        self._text: list[str] = []
        self._fresh = False
        self._meta: dict[str, Any] = {}
        self._final = ""
        self._sent: _Written | None = None  # under way
        self._call: Call | None = None
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._calls = 0
        self._names = request_scripts.write_keys(self.keys, keys, typed=typed)

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

    def rewind(self, index: int, offset: int, *, left: str | None) -> None:
        """Take back what readers got from this place on. ``left``: the visible text that is left,
        None if none of it is taken back."""
        self.add_own({"type": events.REWIND, "index": index, "offset": offset})
        if left is not None:
            self._text, self._fresh = [left], True

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
    def n(self) -> int:
        """Number of the last event that stands in the log."""
        return self._n

    @property
    def ending(self) -> bool:
        """Whether the last event was taken in; what comes back as lost after it is only late."""
        return bool(self._final)

    def take(self) -> Call | None:
        """The call to make now: the unanswered one again, or the next. None: nothing to do."""
        if self.lost:
            return None
        if self._call is None and (self._entries or self._meta):
            self._sent = self._gather()
            self._call = self._call_for(self._sent)
        return self._call

    def settle(self, reply: list[Any]) -> None:
        """Take the script's answer to the call."""
        match request_scripts.write_reply(reply):
            case Written(cancel=cancel):
                self._stands(cancel)
            case Fenced():
                self.lost = "another worker has claimed it, or it has ended"
            case Gone():
                self.lost = "its record has expired or was deleted"
            case Gap(n):
                self._write_again(n)

    def forgotten(self, top: int) -> bool:
        """Whether a log that ends at ``top`` has lost something; it is then written again."""
        if 0 <= top < self._n and self._call is None:
            self._write_again(top)
            return not self.lost
        return False

    def _gather(self) -> _Written:
        first = self._n + 1
        lines = tuple(
            [
                events.wrap(self.epoch, first + i, entry.render())
                for i, entry in enumerate(self._entries)
            ]
        )
        text, meta = "".join(self._text), tuple(self._meta.items())
        size = sum(map(len, lines)) + len(text) + CALL_BYTES
        written = _Written(first, lines, text, self._fresh, meta, self._final, size)
        self._entries, self._text, self._meta, self._fresh = [], [], {}, False
        return written

    def _call_for(self, written: _Written) -> Call:
        self._calls += 1
        return request_scripts.write(
            self._names,
            worker=self.worker,
            epoch=self.epoch,
            first=written.first,
            events=written.lines,
            fields=written.meta,
            text=written.text,
            empty_text=written.fresh,
            final_state=written.final,
            ttl_s=self._renewal(written),
            log_limit=self._log_limit,
        )

    def _stands(self, cancel: str) -> None:
        written = self._sent
        assert written is not None
        self._n = max(self._n, written.first + len(written.lines) - 1)
        self.cancel = self.cancel or cancel
        self._sent = self._call = None
        self._keep(written)

    def _keep(self, written: _Written) -> None:
        self._kept.append(tuple(written))
        self._kept_bytes += written.size
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popleft()[-1]

    def _write_again(self, top: int) -> None:
        """Redis lost what came behind ``top``: write it anew, in one call with what is next."""
        written = [_Written(*kept) for kept in self._kept]
        written += [self._sent] if self._sent else []
        missing = [each for each in written if each.first > top]
        # A call is atomic: a log of ours ends where one of them did, not inside of it.
        if not missing or missing[0].first != top + 1:
            self.lost = f"its log ends at {top}, and what came behind is not in memory any more"
            return
        while self._kept and self._kept[-1][0] > top:
            self._kept_bytes -= self._kept.pop()[-1]
        emptied = max((i for i, each in enumerate(missing) if each.fresh), default=0)
        self._sent = _Written(
            first=top + 1,
            lines=tuple(line for each in missing for line in each.lines),
            text="".join(each.text for each in missing[emptied:]),
            fresh=any(each.fresh for each in missing),
            meta=tuple({k: v for each in missing for k, v in each.meta}.items()),
            final=missing[-1].final,
            size=sum(each.size for each in missing),
        )
        self._calls = 0  # the lifetimes may be lost as well
        self._call = self._call_for(self._sent)

    def _renewal(self, written: _Written) -> int | None:
        """The lifetime to set with this call. Between the first and the last one the renewal of
        the lease does it, by the clock."""
        if written.final:
            return self._retention_s
        return self.ttl_s if self._calls == 1 else None
