"""Join a continued text to what was there before, so that nothing is lost or doubled; pure."""

from typing import Final

#: A repetition shorter than this may be what the text says; a longer one is the model's.
MIN_OVERLAP: Final = 16


class PassThrough:
    """Nothing was there before, or the continuation is known to fit."""

    def feed(self, piece: str) -> str:
        """The part of ``piece`` that readers get."""
        return piece

    def flush(self) -> str:
        """What was held back; no more will come."""
        return ""


class WhitespaceFilter(PassThrough):
    """Behind a prefill. The API takes none that ends in white space, so that was trimmed from it,
    and the model may write it again; readers have it already."""

    def __init__(self, trimmed: str) -> None:
        self._trimmed = trimmed

    def feed(self, piece: str) -> str:
        """The part of ``piece`` that readers get."""
        common = 0
        for mine, theirs in zip(self._trimmed, piece, strict=False):
            if mine != theirs:
                break
            common += 1
        # The rest of the white space can only be repeated if this piece was nothing else.
        self._trimmed = self._trimmed[common:] if common == len(piece) else ""
        return piece[common:]


class OverlapFilter(PassThrough):
    """Behind a request to go on. The model may first repeat the end of what it wrote, or all of it;
    ``before`` must be distinctive.

    Text is held back only while it could still be such a repetition, which is decided within a
    few words.
    """

    def __init__(self, before: str) -> None:
        self._before = before
        self._held = ""
        self._decided = not before

    def feed(self, piece: str) -> str:
        """The part of ``piece`` that readers get."""
        if self._decided:
            return piece
        self._held += piece
        # Still a repetition in the making: the held text occurs in what was there before, and
        # not only at its very end, so the next piece can prolong it.
        place = self._before.find(self._held)
        if place != -1 and place + len(self._held) < len(self._before):
            return ""
        return self._decide()

    def flush(self) -> str:
        """What was held back; no more will come."""
        return "" if self._decided else self._decide()

    def _decide(self) -> str:
        self._decided = True
        held, before = self._held, self._before
        if held.startswith(before):
            return held[len(before) :]  # it began all over again
        start = held[:MIN_OVERLAP]
        place = before.find(start, -len(held)) if len(start) == MIN_OVERLAP else -1
        while place != -1:
            repeated = before[place:]
            if held.startswith(repeated):
                return held if _is_periodic(repeated) else held[len(repeated) :]
            place = before.find(start, place + 1)
        return held


def is_distinctive(before: str) -> bool:
    """Whether a text that begins like ``before`` must be a repetition of it."""
    said = before.strip()
    return len(said) >= MIN_OVERLAP and not _is_periodic(said)


def _is_periodic(text: str) -> bool:
    """Whether it repeats itself, as rulers and indentations do: such an end and such a beginning
    look alike wherever the cut was, and to lose some of it is worse than to have it twice."""
    half = text[: len(text) - len(text) // 2]
    period = text.find(half, 1)
    while period != -1:
        if text.startswith(text[period:]):
            return True
        period = text.find(half, period + 1)
    return False
