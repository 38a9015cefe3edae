"""Attribute access to plain JSON, so that code written for the SDK can read it.

The SDK's typed objects cost an import of about two seconds and 30–140 µs an event, too much for a
reader of many streams. Only the final message is built as a typed object.
"""

from typing import Any


class View(dict[str, Any]):
    """A dict whose items are also attributes: ``event.delta.text``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return view(self[name])
        except KeyError:
            raise AttributeError(name) from None


def view(value: Any) -> Any:
    """Return ``value`` with attribute access to every object in it.

    >>> view({"delta": {"text": "Hi"}}).delta.text
    'Hi'
    """
    if isinstance(value, dict):
        return View(value)
    if isinstance(value, list):
        return [view(item) for item in value]
    return value
