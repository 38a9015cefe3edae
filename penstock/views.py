"""Plain JSON with the SDK's attribute access, so that code written for the SDK reads it.

Building the SDK's typed objects costs its import (about two seconds) and 30–140 µs an event;
a reader of many streams wants neither. Where the typed object matters (the final message), the
client builds it.
"""

from typing import Any


class View(dict[str, Any]):
    """A dict whose items are attributes as well: ``event.delta.text``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return view(self[name])
        except KeyError:
            raise AttributeError(name) from None


def view(value: Any) -> Any:
    """``value`` with every object in it readable by attribute."""
    if isinstance(value, dict):
        return View(value)
    if isinstance(value, list):
        return [view(item) for item in value]
    return value
