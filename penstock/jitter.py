"""Randomness for waits: processes that stopped together must not all return together."""

import random


def jitter() -> float:
    """A random number in [0, 1), to scale a wait with. It spreads load and guards no secret.

    >>> 0.0 <= jitter() < 1.0
    True
    """
    return random.random()  # noqa: S311


def spread(seconds: float, *, by: float) -> float:
    """Make ``seconds`` shorter or longer at random, by up to the fraction ``by``.

    >>> 7.5 <= spread(10.0, by=0.25) < 12.5
    True
    """
    return seconds * (1 - by + 2 * by * jitter())
