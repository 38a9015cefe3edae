"""Rewrites links between pages from repository paths to paths on the site."""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

_FENCE = re.compile(r" *(```+|~~~+)")
#: The target of an inline link or image; code spans are matched first, so that they are skipped.
_LINK = re.compile(r"(?P<code>`+)(?!`).*?(?<!`)(?P=code)(?!`)|\]\((?P<target>[^()\s]+)\)")
_EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a file of the repository, from one of its Markdown files."""

    source: PurePosixPath  #: the file it is in, relative to the root
    line: int
    path: PurePosixPath  #: the file or folder it leads to, relative to the root
    fragment: str  #: with its ``#``, or empty


def rewritten(source: PurePosixPath, text: str, target_of: Callable[[Link], str]) -> str:
    """Return a text in which ``target_of(link)`` replaces links to other files.

    Links within the page, links to other hosts and code are left as they are.
    """
    lines = []
    fence = ""
    for number, line in enumerate(text.split("\n"), start=1):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        lines.append(line if fence else _rewritten(source, number, line, target_of))
    return "\n".join(lines)


def _rewritten(
    source: PurePosixPath, number: int, line: str, target_of: Callable[[Link], str]
) -> str:
    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or target.startswith("#") or _EXTERNAL.match(target):
            return match[0]
        path, separator, fragment = target.partition("#")
        path = posixpath.normpath(str(source.parent / path))
        return f"]({target_of(Link(source, number, PurePosixPath(path), separator + fragment))})"

    return _LINK.sub(replace, line)
