"""Token usage of an answer over all its attempts. Pure.

Within one attempt the API's numbers are cumulative: a later one replaces an earlier one, and null
means "unchanged". Each attempt is billed on its own, so attempts add up. The API reports the output
tokens of an attempt only at its end. Those of one that was cut, handed over or canceled are
estimated from what was received of it: four bytes of text, thinking or tool input are a token.
"""

from typing import Any, Final

from penstock import json_text
from penstock.streams.blocks import PIECE_FIELDS

#: Bytes of text per token, on the high side for English: the estimate is rather too low.
BYTES_PER_TOKEN: Final = 4


class Usage:
    """Adds up the usage that attempts report."""

    def __init__(self, earlier: dict[str, Any] | None = None, *, estimated: bool = False) -> None:
        self.earlier: dict[str, Any] = earlier or {}  #: total of the attempts before this one
        self.estimated = estimated  #: whether a part of the total is an estimate
        self._this: dict[str, Any] = {}
        self.received = 0  #: bytes of text, thinking and tool input of the current attempt
        self._open = False  # an attempt is in progress

    def add(self, reported: dict[str, Any] | None) -> None:
        """Apply the usage of one event of the current attempt."""
        self._this.update({k: v for k, v in (reported or {}).items() if v is not None})

    @property
    def reported_bytes(self) -> int:
        """The size of all that the current attempt has reported, as JSON."""
        return len(json_text.dumps(self._this))

    def receive(self, delta: dict[str, Any]) -> None:
        """Count a delta of the current attempt."""
        self.received += piece_bytes(delta)

    def receive_piece(self, piece: str) -> None:
        """Count the piece of a delta that was checked."""
        self.received += len(piece) if piece.isascii() else len(piece.encode())

    def next_attempt(self) -> None:
        """Begin another attempt."""
        self.earlier, self._this = self.total, {}
        self.received, self._open = 0, True

    def end_attempt(self, *, complete: bool) -> None:
        """End the current attempt, if any; its output is estimated if it was not ``complete``."""
        if self._open and not complete:
            self._this["output_tokens"] = max(self._output, self.received // BYTES_PER_TOKEN)
            self.estimated = True
        self._open = False

    def end_lost_attempt(self, reported: int, received: int) -> None:
        """Estimate the output of an attempt whose worker was lost.

        ``reported``: its output tokens that `earlier` contains. ``received``: the bytes of its
        pieces in the log.
        """
        missing = max(0, received // BYTES_PER_TOKEN - reported)
        self.earlier = _sum(self.earlier, {"output_tokens": missing})
        self.estimated = True

    @property
    def total(self) -> dict[str, Any]:
        """Usage of all attempts together, under the API's field names."""
        return _sum(self.earlier, self._this)

    def fields(self) -> dict[str, Any]:
        """The fields of the record from which the next worker continues to count."""
        fields: dict[str, Any] = {
            "spent": json_text.dumps(self.total),
            "open_output": self._output if self._open else "",
        }
        return {**fields, "usage_estimated": 1} if self.estimated else fields

    @property
    def _output(self) -> int:
        reported = self._this.get("output_tokens")
        return reported if type(reported) is int else 0


def piece_bytes(delta: dict[str, Any]) -> int:
    """Return the bytes of the text, thinking or tool input that a delta adds."""
    piece = delta.get(PIECE_FIELDS.get(str(delta.get("type")), ""))
    if not isinstance(piece, str):
        return 0
    return len(piece) if piece.isascii() else len(piece.encode(errors="replace"))


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    added = dict(one)
    for name, value in other.items():
        before = added.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            added[name] = _sum(before, value)
        elif isinstance(value, int) and isinstance(before, int):
            added[name] = before + value
        else:
            added[name] = value
    return added
