"""What a credential may look like, decided before it is sent. Pure."""

import re
from typing import Final

_QUOTES: Final = ("'", '"')


def without_wrapping(value: str) -> str:
    r"""Return a credential or URL without the white space and the quotation marks around it.

    Files with a line break at their end, and ``docker --env-file``, which keeps quotation marks,
    add them.

    >>> without_wrapping(' "sk-ant-1"\n')
    'sk-ant-1'
    """
    value = value.strip()
    if len(value) > 1 and value[0] in _QUOTES and value[-1] == value[0]:
        value = value[1:-1].strip()
    return value


def header_problem(value: str) -> str:
    r"""Return why no HTTP header can carry a value, without quoting it; empty if one can.

    >>> header_problem("sk-ant-1\nsk-ant-2")
    'contains a line break, which no HTTP header can carry; set it to the key alone'
    """
    if re.search(r"[\r\n]", value):
        return "contains a line break, which no HTTP header can carry; set it to the key alone"
    if re.search(r"[^\x20-\x7e]", value):
        return (
            "contains a character that no HTTP header can carry (a control character, or one that "
            "is not ASCII); copy the key again"
        )
    return ""


def custom_headers_problem(lines: str) -> str:
    """Return what is wrong with ``ANTHROPIC_CUSTOM_HEADERS``, without quoting it; empty: nothing.

    The SDK reads one header a line, as ``name: value``.

    >>> custom_headers_problem("x-team: a")
    ''
    """
    for number, line in enumerate(lines.strip().split("\n"), 1):
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name.strip()):
            return f"line {number} is not `name: value`"
        if header_problem(value.strip()):
            return f"line {number} contains a character that no HTTP header can carry"
    return ""
