"""Token usage of an answer over all its attempts. Pure.

Within one attempt the API's numbers are cumulative: a later one replaces an earlier one, and null
means "unchanged". Each attempt is billed on its own, so attempts add up. Of an interrupted attempt
only the usage in its message_start is known.
"""

from typing import Any


class Usage:
    """Adds up the usage that attempts report."""

    def __init__(self, earlier: dict[str, Any] | None = None) -> None:
        self.earlier: dict[str, Any] = earlier or {}  #: total of the attempts before this one
        self._this: dict[str, Any] = {}

    def add(self, reported: dict[str, Any] | None) -> None:
        """Apply the usage of one event of the current attempt."""
        self._this.update({k: v for k, v in (reported or {}).items() if v is not None})

    def next_attempt(self) -> None:
        """Begin another attempt."""
        self.earlier, self._this = self.total, {}

    @property
    def total(self) -> dict[str, Any]:
        """Usage of all attempts together, under the API's field names."""
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
