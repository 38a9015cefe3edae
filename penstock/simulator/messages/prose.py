"""Made-up prose: the same seed always gives the same sentences."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from random import Random

# An answer's first word is how a quoted part of it is found, so it should not be a word of
# ordinary instructions.
_OPENINGS = (
    "Penstocks",
    "Millraces",
    "Sluicegates",
    "Aqueducts",
    "Headwaters",
    "Tailraces",
    "Spillways",
    "Weirkeepers",
    "Cañons",
    "Turbinists",
    "Floodmarks",
    "Leatwalkers",
)
_WORDS = tuple(
    """
    the the the a a of of and and in to with under over between water valve gauge river
    valley wheel stone pressure lantern morning iron quiet slow bright narrow steady
    keeper engine channel meadow winter signal measure current letter harbour copper
    opens closes turns carries follows gathers remembers answers crosses settles rises
    falls drifts repeats hums slowly twice again before after while until because almost
    never together downstream upstream café naïve façade über señal Ångström größe déjà
    vu 日本 水門 川 東京 Волга žluť 🌊 🚀 👷🏽 → — ½ 37 1,024 grey small distant heavy
    open early late sudden familiar uneven careful valves gauges rivers stones letters
    engines signals keepers fields bridges towers hours minutes maps names numbers
    """.split()  # noqa: SIM905 - a list of 130 quoted words is no easier to read
)
_PIECE_SIZES = range(1, 12)


def seeded(*parts: str) -> Random:
    """A random generator that depends only on ``parts``."""
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return Random(int.from_bytes(digest, "big"))  # noqa: S311 - made-up prose, not a secret


def prose(rng: Random, length: int) -> str:
    """Exactly ``length`` characters of sentences."""
    if length < 2:
        return "."[:length]
    words = [rng.choice(_OPENINGS), *rng.choices(_WORDS, k=length // 3 + 2)]
    written: list[str] = []
    size, ends_at, count = 0, rng.randrange(6, 15), 0
    for word in words:
        shown = word if count or not written else word[0].upper() + word[1:]
        count += 1
        if count == ends_at:
            shown, count, ends_at = shown + ".", 0, rng.randrange(6, 15)
        written.append(shown)
        size += len(shown) + 1
        if size > length:
            break
    return " ".join(written)[: length - 1].rstrip(" .").ljust(length - 1, "…") + "."


def piece_sizes(rng: Random, count: int) -> list[int]:
    """The sizes of ``count`` pieces: a few characters each, not all the same."""
    return rng.choices(_PIECE_SIZES, k=count)


def cut(text: str, lengths: Sequence[int]) -> Iterator[str]:
    """Yield ``text`` in pieces of the given lengths, then what is left."""
    start = 0
    for length in lengths:
        if start >= len(text):
            return
        yield text[start : start + length]
        start += length
    if start < len(text):
        yield text[start:]


def split_randomly(rng: Random, text: str) -> list[str]:
    """The text in pieces of a few characters."""
    return list(cut(text, piece_sizes(rng, len(text) // 3 + 1)))
