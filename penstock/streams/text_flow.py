"""The visible text of an answer as a stream that only grows. Pure."""

from penstock.errors import TextRewound
from penstock.streams.final_text import TextFinal, TextStart


class TextFlow:
    """Gives a reader the text that is final, and holds back the rest.

    Text that a reader was given cannot be taken back. If a rewind withdraws it all the same (Redis
    has lost what was read), new text is compared with it: while both are equal nothing has
    happened; otherwise `TextRewound` is raised.
    """

    def __init__(self, given: str = "", *, final: TextFinal = TextFinal.AFTER_START) -> None:
        self._given = [given]
        self._owed = ""  # given to the reader and rewound, of which...
        self._repaid = 0  # ...these first characters have been repeated
        self._held: list[str] = []  # visible, but not final yet
        self._final = final
        self._start = TextStart()
        self._start.add(given)
        self._blank = False  # whether a block that is held is only white space so far

    @property
    def holds(self) -> bool:
        """Whether it holds text back."""
        return bool(self._held)

    def begin_block(self) -> None:
        """Begin a text block. While it is only white space, a rewind may withdraw it."""
        self._blank = True

    def add(self, piece: str) -> str:
        """Add new text; returns the part that is final and that the reader does not have yet."""
        if self._repaid < len(self._owed):
            length = min(len(piece), len(self._owed) - self._repaid)
            if not self._owed.startswith(piece[:length], self._repaid):
                raise TextRewound
            self._repaid, piece = self._repaid + length, piece[length:]
        if piece:
            self._held.append(piece)
            self._start.add(piece)
        return self._release() if self._is_final(piece) else ""

    def reset(self, text: str) -> str:
        """Replace the visible text; returns what `add` returns."""
        given = "".join(self._given)
        self._given, self._held, self._blank = [given], [], False
        self._owed, self._repaid = "", 0
        self._start = TextStart()
        self._start.add(given)
        if text.startswith(given):
            return self.add(text[len(given) :])
        if given.startswith(text):
            self._owed = given[len(text) :]
            return ""
        raise TextRewound

    def rebuilt(self, text: str) -> "TextFlow":
        """Return the same flow for a reader whose whole visible text is now known."""
        held = "".join(self._held)
        given = text.removesuffix(held) if held else text
        flow = TextFlow(given, final=self._final)
        if held:
            flow._held = [held]
            flow._start.add(held)
        return flow

    def rest(self) -> str:
        """Return the text that is held back, at the end of the answer."""
        return self._release()

    def finish(self) -> None:
        """End the flow. Raises `TextRewound` if the reader has more text than remains."""
        if self._repaid < len(self._owed):
            raise TextRewound

    def _is_final(self, piece: str) -> bool:
        if self._final is TextFinal.AT_ONCE:
            return True
        if self._final is TextFinal.AT_END:
            return False
        self._blank = self._blank and not piece.strip()
        return not self._blank and self._start.is_final

    def _release(self) -> str:
        piece = "".join(self._held)
        self._held = []
        self._given.append(piece)
        return piece
