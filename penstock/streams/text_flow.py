"""The visible text of an answer as a stream that only grows. Pure."""

from penstock.errors import TextRewound
from penstock.streams.final_text import TextFinal, has_final_start


class TextFlow:
    """Gives a reader the text that is final, and holds back the rest.

    Text that a reader was given cannot be taken back. If a rewind withdraws it all the same (Redis
    has lost what was read), new text is compared with it: while both are equal nothing has
    happened; otherwise `TextRewound` is raised.
    """

    def __init__(self, given: str = "", *, final: TextFinal = TextFinal.AFTER_START) -> None:
        self._given = [given]
        self._owed = ""  # given to the reader, rewound, and not repeated yet
        self._held = ""  # visible, but not final yet
        self._final = final
        self._begun = final is TextFinal.AT_ONCE or has_final_start(given)
        self._blank_from: int | None = None  # where in the held text a block of white space begins

    @property
    def holds(self) -> bool:
        """Whether it holds text back."""
        return bool(self._held)

    def begin_block(self) -> None:
        """Begin a text block. While it is only white space, a rewind may withdraw it."""
        self._blank_from = len(self._held)

    def add(self, piece: str) -> str:
        """Add new text; returns the part that is final and that the reader does not have yet."""
        if self._owed:
            length = min(len(piece), len(self._owed))
            if piece[:length] != self._owed[:length]:
                raise TextRewound
            self._owed, piece = self._owed[length:], piece[length:]
        self._held += piece
        return self._release() if self._is_final() else ""

    def reset(self, text: str) -> str:
        """Replace the visible text; returns what `add` returns."""
        given = "".join(self._given)
        self._held, self._blank_from = "", None
        if text.startswith(given):
            self._owed = ""
            return self.add(text[len(given) :])
        if given.startswith(text):
            self._owed = given[len(text) :]
            return ""
        raise TextRewound

    def rebuilt(self, text: str) -> "TextFlow":
        """Return the same flow for a reader whose whole visible text is now known."""
        given = text.removesuffix(self._held) if self._held else text
        flow = TextFlow(given, final=self._final)
        flow._held = self._held
        return flow

    def rest(self) -> str:
        """Return the text that is held back, at the end of the answer."""
        return self._release()

    def finish(self) -> None:
        """End the flow. Raises `TextRewound` if the reader has more text than remains."""
        if self._owed:
            raise TextRewound

    def _is_final(self) -> bool:
        if self._final is TextFinal.AT_ONCE:
            return True
        if self._final is TextFinal.AT_END:
            return False
        if self._blank_from is not None:
            if not self._held[self._blank_from :].strip():
                return False
            self._blank_from = None
        self._begun = self._begun or has_final_start("".join(self._given) + self._held)
        return self._begun

    def _release(self) -> str:
        piece, self._held = self._held, ""
        self._given.append(piece)
        return piece
