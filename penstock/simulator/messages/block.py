"""One content block of an answer, before it becomes events or JSON."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Block:
    """One content block, as the pieces that its deltas carry."""

    kind: str
    pieces: tuple[str, ...] = ()
    name: str = ""  #: the tool's name, in a tool_use or server_tool_use block
    id: str = ""  #: the call's id, in a tool_use or server_tool_use block
    signature: str = ""  #: of a thinking block; of a compaction, its encrypted content
    citations: tuple[dict[str, Any], ...] = ()  #: of a text block, sent after its text
    whole: dict[str, Any] | None = None  #: the block, if it has no deltas
    stamped: bool = False  #: the text of each delta is the time at which it is written
    complete: bool = True  #: False: max_tokens ended the answer inside this block

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)
