"""Joins a continued text to the text before it, without loss or repetition. Pure."""

from typing import Final

from tasks.streams.text_matching import common_prefix, is_periodic, longest_overlap

#: Minimum characters of a repetition. A shorter one may be part of the text itself.
MIN_OVERLAP: Final = 16
#: Maximum characters of a text with which its continuation is compared, several times the longest
#: answer of any model. Of a longer text only the end is: the comparison holds up other streams.
COMPARED_LIMIT: Final = 2_000_000


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
        self._repeated = 0  # characters of it that the model has repeated

    @property
    def decided(self) -> bool:
        """Whether all further text is new to readers, and nothing is held back."""
        return self._repeated == len(self._trimmed)

    def feed(self, piece: str) -> str:
        """Return the part of ``piece`` that is new to readers."""
        if self.decided:
            return piece
        expected = self._trimmed[self._repeated : self._repeated + len(piece)]
        common = common_prefix(expected, piece)
        self._repeated += common
        if common < len(piece):
            # The rest of the white space can only be repeated if this piece was nothing else.
            self._repeated = len(self._trimmed)
        return piece[common:]


class OverlapFilter(PassThrough):
    """Drops a repetition at the start of a text that a model was asked to continue.

    The model may repeat the end of ``before``, or all of it; ``before`` must be distinctive. Text
    is held back only while it can still be a repetition, which is decided within a few words.
    """

    def __init__(self, before: str) -> None:
        self._before = before
        # What is held back is a part of `before`: its first occurrence, without the very end.
        self._place = 0
        self._length = 0
        self._decided = not before

    @property
    def decided(self) -> bool:
        """Whether all further text is new to readers, and nothing is held back."""
        return self._decided

    def feed(self, piece: str) -> str:
        """Return the part of ``piece`` that is new to readers."""
        if self._decided:
            return piece
        before, place, end = self._before, self._place, self._place + self._length
        if end + len(piece) < len(before) and before.startswith(piece, end):
            self._length += len(piece)
            return ""
        # Still possibly a repetition: the held text occurs further on in the text before, and not
        # only at its very end, so the next piece can extend the match. The places only increase,
        # so all searches together cost hardly more than one.
        held = before[place:end] + piece
        self._place, self._length = before.find(held, place, len(before) - 1), len(held)
        return self._decide(held) if self._place == -1 else ""

    def flush(self) -> str:
        """Return the text that was held back, at the end of the block."""
        held = self._before[self._place : self._place + self._length]
        return "" if self._decided else self._decide(held)

    def _decide(self, held: str) -> str:
        self._decided = True
        before = self._before
        if held.startswith(before):
            return held[len(before) :]  # it started over
        overlap = longest_overlap(before, held, MIN_OVERLAP)
        # The end and the beginning of periodic text look alike wherever it was cut, and losing a
        # part of it is worse than having a part of it twice.
        return held if is_periodic(held[:overlap]) else held[overlap:]


def filter_after(before: str) -> PassThrough:
    """Return the filter for a text that a model was asked to continue after ``before``.

    Of a text that repeats itself, a repetition cannot be recognized: nothing is cut.
    """
    compared = before[-COMPARED_LIMIT:]
    return OverlapFilter(compared) if is_distinctive(compared) else PassThrough()


def is_distinctive(before: str) -> bool:
    """Whether a text that begins like ``before`` can only be a repetition of it."""
    text = before.strip()
    return len(text) >= MIN_OVERLAP and not is_periodic(text)
