"""Buffers one stream's events for Redis until they are acknowledged. Pure.

It numbers the events and merges deltas: `next_call` returns the next call of the write script,
`apply_reply` processes Redis's reply. While a call is outstanding, new deltas of the same block are
merged into one event. An idle Redis therefore gets every delta at once, a busy one fewer and larger
events.

Written events stay in memory for a few seconds. A Redis that was restarted may have lost the end of
the log and replies ``gap`` to the next call; the outbox then writes the same lines again.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from penstock import events, json_text
from penstock.keys import Keys
from penstock.states import State
from penstock.store import request_scripts
from penstock.store.request_scripts import Gap, Gone, WriteReply, Written
from penstock.store.scripts import Fenced, ScriptCall
from penstock.streams.blocks import PIECE_FIELDS, text_in

#: Maximum bytes of written events kept in memory, in case Redis loses them. With ``appendfsync
#: everysec`` it can lose a second or two; at 40 deltas a second this covers about five.
MAX_KEPT_BYTES: Final = 80 * 1024
#: Maximum events of one call. While a call runs, Redis serves no other client: an answer of a
#: million events must not arrive in one, however long Redis was unavailable.
EVENTS_PER_CALL_LIMIT: Final = 500
#: Bytes that a kept call occupies besides its lines and its text.
CALL_OVERHEAD_BYTES: Final = 250


@dataclass(slots=True)
class _Entry:
    """An event that waits to be written."""

    raw: bytes  #: its JSON as received; used unless other deltas were merged into it
    index: int = -1  #: block of a delta that can be merged; -1 for other events
    kind: str = ""
    parts: list[str] = field(default_factory=list)
    text: Sequence[str] = ()  #: pieces that it adds to the visible text
    left: str | None = None  #: of a rewind: what remains of the visible text; None: all of it

    def render(self) -> bytes:
        if len(self.parts) < 2:
            return self.raw
        delta = {"type": self.kind, PIECE_FIELDS[self.kind]: "".join(self.parts)}
        merged = {"type": "content_block_delta", "index": self.index, "delta": delta}
        return json_text.dumps(merged)


class _CallContent(NamedTuple):
    """The events of one call and their effect on the record, in case Redis loses them."""

    first: int
    lines: tuple[bytes, ...]
    text: str
    fresh: bool  #: ``text`` replaces the visible text
    meta: tuple[tuple[str, Any], ...]
    final: str  #: final state this call sets; empty unless it holds the last event
    size: int  #: approximate bytes in memory


#: A `_CallContent` in memory. Hundreds of streams keep tens of thousands of them, and the garbage
#: collector stops tracking a plain tuple of plain values.
_Kept = tuple[Any, ...]

#: One call of the write script; repeated unchanged until Redis has acknowledged it.
WriteCall: TypeAlias = ScriptCall[WriteReply]


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
        self.fault = ""  #: the bug because of which its events cannot be written; then also lost
        self.cancel = ""  #: who canceled the stream; empty if it is not canceled
        self._n = n  # number of the last acknowledged event
        self.ttl_s = ttl_s
        self._retention_s = retention_s
        self._log_limit = log_limit
        self._entries: deque[_Entry] = deque()
        self._textless: set[int] = set()  # blocks that are not text, whatever their deltas are
        self._meta: dict[str, Any] = {}
        self._end_meta: dict[str, Any] = {}  # written with the last event
        self._final = ""
        self._sent: _CallContent | None = None  # outstanding
        self._call: WriteCall | None = None
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._calls = 0
        self._names = request_scripts.write_keys(self.keys, keys, typed=typed)

    def add(self, raw: bytes, data: dict[str, Any]) -> None:
        """Add an event of the API: ``raw`` is its JSON, ``data`` the same, parsed and checked."""
        if data.get("type") != "content_block_delta":
            text = self._begin_block(data) if data.get("type") == "content_block_start" else ""
            self._entries.append(_Entry(raw, text=(text,) if text else ()))
            return
        delta, index = data.get("delta"), data.get("index")
        if type(delta) is not dict or type(index) is not int:
            self._entries.append(_Entry(raw))
            return
        kind = delta.get("type", "")
        piece = delta.get(PIECE_FIELDS.get(kind, ""))
        visible = kind == "text_delta" and index not in self._textless
        if piece is None or len(data) > 3 or len(delta) > 2:
            # Not merged: a field that is new in the API must not disappear under load.
            self._entries.append(_Entry(raw, text=(piece,) if visible and piece else ()))
            return
        last = self._entries[-1] if self._entries else None
        if last is not None and last.index == index and last.kind == kind:
            last.parts.append(piece)
        else:
            parts = [piece]
            self._entries.append(_Entry(raw, index, kind, parts, parts if visible else ()))

    def add_own(self, data: dict[str, Any]) -> None:
        """Add an event of Penstock's own."""
        self._entries.append(_Entry(json_text.dumps(data)))

    def rewind(self, index: int, offset: int, *, left: str | None) -> None:
        """Discard what readers have after ``offset`` characters of block ``index``.

        ``left``: the visible text that remains, None if no visible text is discarded.
        """
        self.add_own({"type": events.REWIND, "index": index, "offset": offset})
        self._entries[-1].left = left

    def note(self, **fields: Any) -> None:
        """Write these fields of the record together with the next events."""
        self._meta.update(fields)

    def end(self, data: dict[str, Any], **fields: Any) -> None:
        """Add the last event; the call that writes it also sets the final state."""
        self._final = State(data["state"])
        self._end_meta.update(fields)
        self.add_own({"type": events.END, **data})

    @property
    def acknowledged(self) -> bool:
        """Whether Redis has acknowledged everything, or this worker may no longer write."""
        return bool(self.lost) or (self._call is None and not self._entries and not self._meta)

    @property
    def n(self) -> int:
        """Number of the last event that Redis has acknowledged."""
        return self._n

    @property
    def ending(self) -> bool:
        """Whether the last event was added; a renewal fenced after that is merely late."""
        return bool(self._final)

    @property
    def call_bytes(self) -> int:
        """Approximate bytes of the call that Redis has not acknowledged; 0 if there is none."""
        return self._sent.size if self._sent else 0

    def next_call(self) -> WriteCall | None:
        """Return the call to make now: the unacknowledged one again, or the next, if any."""
        if self.lost:
            return None
        if self._call is None and (self._entries or self._meta):
            self._sent = self._gather()
            self._call = self._call_for(self._sent)
        return self._call

    def apply_reply(self, reply: list[Any]) -> None:
        """Apply the write script's reply to the outstanding call."""
        match request_scripts.write_reply(reply):
            case Written(cancel=cancel):
                self._acknowledge(cancel)
            case Fenced():
                self.lost = "another worker has claimed it, or it has ended"
            case Gone():
                self.lost = "its record has expired or was deleted"
            case Gap(n):
                self._rewrite_after(n)

    def check_log_end(self, top: int) -> bool:
        """Write again what a log that ends at ``top`` has lost; returns whether it did."""
        if 0 <= top < self._n and self._call is None:
            self._rewrite_after(top)
            return not self.lost
        return False

    def _begin_block(self, data: dict[str, Any]) -> str:
        """Note the kind of a block that begins; returns its visible text."""
        if data["content_block"]["type"] != "text":
            self._textless.add(data["index"])
            return ""
        self._textless.discard(data["index"])
        return text_in(data)

    def _gather(self) -> _CallContent:
        first = self._n + 1
        lines: list[bytes] = []
        text: list[str] = []
        fresh = False
        for n in range(first, first + min(len(self._entries), EVENTS_PER_CALL_LIMIT)):
            entry = self._entries.popleft()
            lines.append(events.wrap(self.epoch, n, entry.render()))
            if entry.left is not None:
                text, fresh = [entry.left], True
            text += entry.text
        is_last = bool(self._final) and not self._entries
        meta = {**self._meta, **self._end_meta} if is_last else self._meta
        self._meta = {}
        whole, final = "".join(text), self._final if is_last else ""
        size = sum(map(len, lines)) + len(whole) + CALL_OVERHEAD_BYTES
        return _CallContent(first, tuple(lines), whole, fresh, tuple(meta.items()), final, size)

    def _call_for(self, content: _CallContent) -> WriteCall:
        self._calls += 1
        return request_scripts.write(
            self._names,
            worker=self.worker,
            epoch=self.epoch,
            first=content.first,
            events=content.lines,
            fields=content.meta,
            text=content.text,
            empty_text=content.fresh,
            final_state=content.final,
            ttl_s=self._ttl_s(content),
            log_limit=self._log_limit,
        )

    def _acknowledge(self, cancel: str) -> None:
        written = self._sent
        assert written is not None
        self._n = max(self._n, written.first + len(written.lines) - 1)
        self.cancel = self.cancel or cancel
        self._sent = self._call = None
        self._keep(written)

    def _keep(self, written: _CallContent) -> None:
        self._kept.append(tuple(written))
        self._kept_bytes += written.size
        while self._kept_bytes > MAX_KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popleft()[-1]

    def _rewrite_after(self, top: int) -> None:
        """Repeat the calls after event ``top`` and the outstanding one in one call."""
        written = [_CallContent(*kept) for kept in self._kept]
        written += [self._sent] if self._sent else []
        missing = [each for each in written if each.first > top]
        # Calls are atomic: a log that only we wrote ends with one of our calls, never inside one.
        if not missing or missing[0].first != top + 1:
            self.lost = f"its log ends at {top}, and the events after that are no longer in memory"
            return
        while self._kept and self._kept[-1][0] > top:
            self._kept_bytes -= self._kept.pop()[-1]
        emptied = max((i for i, each in enumerate(missing) if each.fresh), default=0)
        self._sent = _CallContent(
            first=top + 1,
            lines=tuple(line for each in missing for line in each.lines),
            text="".join(each.text for each in missing[emptied:]),
            fresh=any(each.fresh for each in missing),
            meta=tuple({k: v for each in missing for k, v in each.meta}.items()),
            final=missing[-1].final,
            size=sum(each.size for each in missing),
        )
        self._calls = 0  # the keys' TTLs may be lost as well
        self._call = self._call_for(self._sent)

    def _ttl_s(self, content: _CallContent) -> int | None:
        """Return the TTL that this call sets, in seconds, or None.

        Between the first call and the last, the renewal of the lease sets the TTL.
        """
        if content.final:
            return self._retention_s
        return self.ttl_s if self._calls == 1 else None
