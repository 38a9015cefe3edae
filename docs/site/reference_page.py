"""The page of the Python API, generated from the public classes."""

import inspect
import re
import sys
from collections.abc import Iterator

import penstock
from docs.site import classes
from penstock.batches.pages import BatchPage

_INTRODUCTION = """\
# Python API

Import the classes from `penstock`. Those with a dotted title are reached through a client, which
also returns `Progress`, `Notice`, `Budget` and `BatchPage`. This page is generated from the code of
the version it describes.
"""

#: Public for other modules of Penstock, and of no use outside it.
INTERNAL = frozenset({"at_line", "handle", "inside", "of", "wakeups"})

_NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")


def reference_page() -> str:
    """Return the page that describes every public class."""
    shown = public_classes()
    names = {kind.__name__ for kind in shown.values()}
    parts = [_INTRODUCTION]
    for title, kind in shown.items():
        if kind is penstock.PenstockError:
            parts.append("## Errors\n")
        level = "###" if issubclass(kind, Exception) else "##"
        parts.append(f"{level} {title} {{ #{kind.__name__} }}\n")
        parts += _entry(kind, names, callable_=title.endswith("Client"))
    return "\n".join(parts)


def public_classes() -> dict[str, type]:
    """Return title → class, in the order of the page."""
    threads, loop = penstock.Client().messages, penstock.AsyncClient().messages
    views = sys.modules[penstock.Batch.__module__]
    shown = {
        "Client": penstock.Client,
        "Client.messages": type(threads),
        "Client.messages.batches": type(threads.batches),
        "StreamRequest": penstock.StreamRequest,
        "MessageStream": penstock.MessageStream,
        "AsyncClient": penstock.AsyncClient,
        "AsyncClient.messages": type(loop),
        "AsyncClient.messages.batches": type(loop.batches),
        "AsyncStreamRequest": penstock.AsyncStreamRequest,
        "AsyncMessageStream": penstock.AsyncMessageStream,
        "Batch": penstock.Batch,
        **{name: getattr(views, name) for name in ("Progress", "Notice", "Budget")},
        "BatchPage": BatchPage,
        "Event": penstock.Event,
        "Cursor": penstock.Cursor,
        "State": penstock.State,
        "PenstockError": penstock.PenstockError,
    }
    public = {name: getattr(penstock, name) for name in penstock.__all__}
    return shown | {name: kind for name, kind in public.items() if name not in shown}


def _entry(kind: type, names: set[str], *, callable_: bool) -> Iterator[str]:
    members = [each for each in classes.members_of(kind) if each.name not in INTERNAL]
    own = {each.name for each in members}

    def linked(text: str) -> str:
        return _NAME.sub(lambda match: _link(match, kind.__name__, own, names), text)

    if callable_:
        yield _code(classes.constructor_of(kind))
    yield linked(classes.in_markdown(inspect.getdoc(kind) or "")) + "\n"
    rows = [
        f"| `{each.name}` | `{each.type}` | {linked(each.meaning)} |".replace(
            " | None", " \\| None"
        )
        for each in classes.fields_of(kind)
    ]
    if rows:
        yield "\n".join(["| field | type or value | meaning |", "|---|---|---|", *rows, ""])
    for each in members:
        yield f"### `{each.name}` {{ #{kind.__name__}.{each.name} }}\n"
        yield _code(each.signature)
        yield linked(each.prose) + "\n"


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _link(match: re.Match[str], kind: str, own: set[str], names: set[str]) -> str:
    """Return a name in backticks, as a link if the page describes what it names."""
    *path, name = match[1].split(".")
    if path and path[-1] in names:
        return f"[{match[0]}](#{path[-1]}.{name})"
    if name in names:
        return f"[{match[0]}](#{name})"
    if name in own and not path:
        return f"[{match[0]}](#{kind}.{name})"
    return match[0]
