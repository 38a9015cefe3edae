"""Lets a forked child read with connections of its own, and leave those of its parent alone.

A fork copies the event loop of a multiplexer without the thread that runs it. The copy shares its
epoll instance and its sockets with the parent, and a destructor that ran in the child could remove
the parent's sockets from it. So the child keeps such objects for good, and uses new ones.
"""

import os
import weakref
from typing import Any, Final, Protocol


class Forkable(Protocol):
    """Has connections that a child must not use."""

    def begin_in_child(self) -> None: ...


_REGISTERED: "Final[weakref.WeakSet[Any]]" = weakref.WeakSet()
_KEPT: Final[list[object]] = []


def register(each: Forkable) -> None:
    """Call its ``begin_in_child`` in every child, before any other code runs there."""
    _REGISTERED.add(each)


def keep(each: object) -> None:
    """Never destroy an object of the parent."""
    _KEPT.append(each)


def _begin_in_child() -> None:
    for each in list(_REGISTERED):
        each.begin_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_begin_in_child)
