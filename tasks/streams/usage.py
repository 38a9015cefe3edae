"""Tokens of an answer over all its attempts; pure.

Within one attempt the API's numbers are cumulative: a later one replaces an earlier one, and null
means "unchanged". Attempts are paid for one by one, so they add up. Of an attempt that broke off
only what message_start said is known.
"""

from typing import Any


class Usage:
    """Adds up what attempts report."""

    def __init__(self, earlier: dict[str, Any] | None = None) -> None:
        self.earlier: dict[str, Any] = earlier or {}  #: all attempts before this one
        self._this: dict[str, Any] = {}

    def add(self, reported: dict[str, Any] | None) -> None:
        """Take the usage of an event of the current attempt."""
        self._this.update({k: v for k, v in (reported or {}).items() if v is not None})

    def next_attempt(self) -> None:
        """The current attempt is over."""
        self.earlier, self._this = self.total, {}

    @property
    def total(self) -> dict[str, Any]:
        """All attempts together, by the API's names."""
        return _sum(self.earlier, self._this)


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
