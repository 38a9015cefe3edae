"""Small faults in the source of a Lua script, made line by line. Pure."""

import re
from collections.abc import Iterator
from typing import Final

from tests.mutants.python_faults import Fault

_SWAPS: Final = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"==", "~="),
        (r"~=", "=="),
        (r"<=", "<"),
        (r">=", ">"),
        (r"(?<=\s)<(?=\s)", "<="),
        (r"(?<=\s)>(?=\s)", ">="),
        (r"\band\b", "or"),
        (r"\bor\b", "and"),
        (r"\bnot ", ""),
        (r" \+ ", " - "),
        (r" - ", " + "),
        (r"\bmath\.max\b", "math.min"),
        (r"\bmath\.min\b", "math.max"),
    )
)
_NUMBER: Final = re.compile(r"(?<![\w.])\d+(?![\w.])")
_TEXT: Final = re.compile(r"'[^']*'")
#: Text, and what is always written the same way: the next place of a list, a range of arguments.
_FIXED: Final = re.compile(r"'[^']*'|\[#\w+ \+ 1\]|\bunpack\(\w+, \d+, \d+\)")
_STATEMENT: Final = re.compile(r"\s*(redis\.call\(|return\b|\w+(\[[^=]*\])? = |\w+, \w+ = )")


def lua_faults(source: str) -> list[Fault]:
    """Return every fault for this script, in the order of its lines."""
    lines = source.split("\n")
    found = []
    end = 0  # of the last statement
    for number, line in enumerate(lines):
        code = line.partition("--")[0]
        for what, changed in _changes(code):
            found.append(_fault(lines, number, number + 1, what, changed + line[len(code) :]))
        if number < end:
            continue
        end = _end_of_statement(lines, number)
        if _STATEMENT.match(code):
            found.append(_fault(lines, number, end, f"dropped: {code.strip()}", ""))
    return found


def _fault(lines: list[str], first: int, end: int, what: str, text: str) -> Fault:
    """The script with ``text`` in place of some lines; the number of lines stays."""
    blank = [""] * (end - first - 1)
    return Fault(first + 1, what, "\n".join([*lines[:first], text, *blank, *lines[end:]]))


def _changes(code: str) -> Iterator[tuple[str, str]]:
    """Each change of one line of code: what it is, and the changed line."""
    quoted = [found.span() for found in _FIXED.finditer(code)]
    swaps = [(found, text) for pattern, text in _SWAPS for found in pattern.finditer(code)]
    swaps += [(found, str(int(found[0]) + 1)) for found in _NUMBER.finditer(code)]
    for found, text in swaps:
        if not any(first <= found.start() < end for first, end in quoted):
            what = f"{found[0].strip()} → {text.strip() or 'nothing'}: {code.strip()}"
            yield what, code[: found.start()] + text + code[found.end() :]


def _end_of_statement(lines: list[str], first: int) -> int:
    """The number of the line after a statement, which may be longer than one line."""
    depth = 0
    for number in range(first, len(lines)):
        code = _TEXT.sub("", lines[number].partition("--")[0])
        depth += sum(code.count(each) for each in "({") - sum(code.count(each) for each in ")}")
        if depth <= 0:
            return number + 1
    return len(lines)
