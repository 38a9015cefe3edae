"""Joins a continued text to the text before it, without loss or repetition. Pure."""

from typing import Final

#: Minimum characters of a repetition. A shorter one may be part of the text itself.
MIN_OVERLAP: Final = 16


class PassThrough:
    """Passes text on unchanged: nothing precedes it, or it continues exactly."""

    @property
    def decided(self) -> bool:
        """Whether all further text is new to readers, and nothing is held back."""
        return True

    def feed(self, piece: str) -> str:
        """Return the part of ``piece`` that is new to readers."""
        return piece

    def flush(self) -> str:
        """Return the text that was held back, at the end of the block."""
        return ""


class WhitespaceFilter(PassThrough):
    """Drops white space that a model repeats after a prefill.

    The API accepts no prefill that ends in white space, so it was trimmed; readers have it already.
    """

    def __init__(self, trimmed: str) -> None:
        self._trimmed = trimmed

    @property
    def decided(self) -> bool:
        """Whether all further text is new to readers, and nothing is held back."""
        return not self._trimmed

    def feed(self, piece: str) -> str:
        """Return the part of ``piece`` that is new to readers."""
        common = 0
        for mine, theirs in zip(self._trimmed, piece, strict=False):
            if mine != theirs:
                break
            common += 1
        # The rest of the white space can only be repeated if this piece was nothing else.
        self._trimmed = self._trimmed[common:] if common == len(piece) else ""
        return piece[common:]


class OverlapFilter(PassThrough):
    """Drops a repetition at the start of a text that a model was asked to continue.

    The model may repeat the end of ``before``, or all of it; ``before`` must be distinctive. Text
    is held back only while it can still be a repetition, which is decided within a few words.
    """

    def __init__(self, before: str) -> None:
        self._before = before
        self._held = ""
        self._decided = not before

    @property
    def decided(self) -> bool:
        """Whether all further text is new to readers, and nothing is held back."""
        return self._decided

    def feed(self, piece: str) -> str:
        """Return the part of ``piece`` that is new to readers."""
        if self._decided:
            return piece
        self._held += piece
        # Still possibly a repetition: the held text occurs in the text before, and not only at
        # its very end, so the next piece can extend the match.
        place = self._before.find(self._held)
        if place != -1 and place + len(self._held) < len(self._before):
            return ""
        return self._decide()

    def flush(self) -> str:
        """Return the text that was held back, at the end of the block."""
        return "" if self._decided else self._decide()

    def _decide(self) -> str:
        self._decided = True
        held, before = self._held, self._before
        if held.startswith(before):
            return held[len(before) :]  # it started over
        start = held[:MIN_OVERLAP]
        place = before.find(start, -len(held)) if len(start) == MIN_OVERLAP else -1
        while place != -1:
            repeated = before[place:]
            if held.startswith(repeated):
                return held if _is_periodic(repeated) else held[len(repeated) :]
            place = before.find(start, place + 1)
        return held


def is_distinctive(before: str) -> bool:
    """Whether a text that begins like ``before`` can only be a repetition of it."""
    text = before.strip()
    return len(text) >= MIN_OVERLAP and not _is_periodic(text)


def _is_periodic(text: str) -> bool:
    """Whether the text repeats one unit, as rulers and indentation do.

    Its end and its beginning then look alike wherever it was cut, and losing a part of it is worse
    than having a part of it twice.
    """
    half = text[: len(text) - len(text) // 2]
    period = text.find(half, 1)
    while period != -1:
        if text.startswith(text[period:]):
            return True
        period = text.find(half, period + 1)
    return False
