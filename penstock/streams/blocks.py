"""The content blocks of a message, accumulated from its events. Pure.

Workers use it to know what they have published, readers to build the message. Both must come to the
same text after the same events, above all after a rewind; so there is one implementation.
"""

from bisect import bisect_left, insort
from typing import Any, Final

#: Delta type → the field that holds its piece. The pieces of a block are concatenated.
PIECE_FIELDS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}

#: Block types whose pieces make up the field of the same name.
TEXT_KINDS: Final = frozenset({"text", "thinking"})


class Block:
    """One content block: its kind, and the pieces that its deltas have added."""

    __slots__ = ("added_citations", "fields", "kind", "open", "pieces")

    def __init__(self, kind: str, text: str = "", *, open: bool = True) -> None:
        self.kind = kind  #: text, thinking, tool_use, …
        self.open = open
        self.pieces: list[str] = [text] if text else []
        self.fields: dict[str, Any] = {}  #: of the block itself, for a reader that builds it
        self.added_citations: list[Any] = []  #: by its deltas

    @property
    def text(self) -> str:
        """All pieces so far, joined: text, thinking, or the JSON of a tool's input."""
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


class Blocks(dict[int, Block]):
    """Blocks by their index in the message.

    An answer may have thousands, so no event of one block looks at all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int] = []  #: the indexes, in the order of the message

    def __setitem__(self, index: int, block: Block) -> None:
        if index not in self:
            insort(self.order, index)
        super().__setitem__(index, block)

    def clear(self) -> None:
        """Remove all blocks."""
        super().clear()
        self.order.clear()

    @property
    def text(self) -> str:
        """All visible text, in the order of the blocks."""
        return "".join(self[index].text for index in self.order if self[index].kind == "text")

    @property
    def end(self) -> int:
        """The index of the block that comes next."""
        return self.order[-1] + 1 if self.order else 0

    def start(self, index: int, block: Block) -> None:
        """Begin a block; it replaces all blocks from ``index`` on."""
        self._discard_from(index)
        self[index] = block

    def rewind(self, index: int, offset: int) -> None:
        """Discard all after ``offset`` characters of block ``index``.

        All later blocks are discarded too. Only text can be cut; a block of another kind is
        discarded whole.
        """
        self._discard_from(index + 1)
        block = self.get(index)
        if block is not None and offset and block.kind in TEXT_KINDS:
            block.pieces[:] = [block.text[:offset]]
        else:
            self._discard_from(index)

    def add_text(self, index: Any, delta: Any) -> None:
        """Add the piece of a text_delta; any other delta, and what does not fit, is ignored.

        A block that is missing has started before the first event that the reader has.
        """
        if type(delta) is not dict or delta.get("type") != "text_delta":
            return
        piece = delta.get("text")
        if type(index) is not int or type(piece) is not str:
            return
        block = self.get(index)
        if block is None:
            block = self[index] = Block("text")
        if block.kind == "text":
            block.pieces.append(piece)

    def _discard_from(self, index: int) -> None:
        first = bisect_left(self.order, index)
        for later in self.order[first:]:
            del self[later]
        del self.order[first:]


def text_in(data: dict[str, Any]) -> str:
    """Return the text that an event of a text block adds to it; "" for any other event."""
    kind = data.get("type")
    if kind == "content_block_delta":
        return _text_field(data.get("delta"), "text_delta")
    if kind == "content_block_start":
        return _text_field(data.get("content_block"), "text")
    return ""


def _text_field(holder: Any, kind: str) -> str:
    if not isinstance(holder, dict) or holder.get("type") != kind:
        return ""
    text = holder.get("text")
    return text if isinstance(text, str) else ""
