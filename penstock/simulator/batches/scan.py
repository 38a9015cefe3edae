"""Finds the requests of a batch without parsing the JSON, for benchmarks.

Parsing 100,000 requests of 2 KB takes about a second, scanning for them a third of that. The params
are parsed when the lines are evaluated.
"""

import re
from array import array

from penstock.simulator.batches.store import PackedLines

_REQUEST = rb'\{"custom_id":"([a-zA-Z0-9_-]{1,64})","params":\{'
_FIRST = re.compile(rb'\{"requests":\[' + _REQUEST)
_NEXT = re.compile(rb"\}," + _REQUEST)
_TAIL = b"}]}"


def scan(raw: bytearray) -> tuple[PackedLines, PackedLines] | None:
    """The custom ids and the requests of a body that has no spaces between its parts.

    The requests stay where they are in ``raw``. Returns None when the body is written in another
    way or looks wrong; parsing it as JSON then says what is wrong. Params that contain the
    beginning of a request are cut there.
    """
    first = _FIRST.match(raw)
    if first is None or not raw.endswith(_TAIL):
        return None
    custom_ids, starts = [first[1]], [first.start(1) - len('{"custom_id":"')]
    for found in _NEXT.finditer(raw):
        custom_ids.append(found[1])
        starts.append(found.start() + 2)
    if len(set(custom_ids)) < len(custom_ids):
        return None
    # As if the last request were followed by a comma, too.
    bounds = array("Q", [*starts, len(raw) - 1])
    return PackedLines(custom_ids), PackedLines.from_bounds(raw, bounds, gap=1)
