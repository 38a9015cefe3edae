"""Sorts the lines of a shard's results: what is stored, what is sent again, what is no line; pure.

Parsing takes three times as long as downloading, and all that is wanted of a succeeded line are
its index, its model and its usage. The API writes nearly every line alike, with these near both
ends, so they are cut out of a line of that form, and the usages of a block are parsed at once.
Inside a JSON string a quote is always escaped, so what is looked for is never part of an answer's
text. Whatever does not match to the byte, or does not parse, takes the slow way, which decides
alike.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from penstock.batches.wire import LINE_HEAD, RESULT
from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.collect.tally import ResultTally
from tasks.batches.result_lines import Outcome, read_line, tokens_in

#: How a succeeded line of the usual form begins: behind the nonce its index, then its model.
_HEAD: Final = (
    rb"([0-9]{6})" + re.escape(RESULT) + rb'\{"type":"succeeded","message":\{'
    rb'(?:"id":"[^"\\]*","type":"message","role":"assistant",)?"model":"([^"\\]*)"'
)
#: What comes before its usage. Of several places the first is taken: one inside of an answer's
#: content lies deeper than the message, so that what follows does not parse.
_USAGE: Final = b'"stop_sequence":null,"usage":{'
#: What the rest of the line is put behind, to be JSON again, and to be that on the level of the
#: message alone.
_OPEN: Final = b'{"result":{"message":{"usage":'
#: What a line ends with if no blank is behind it.
_BRACKET: Final = ord("}")


class Sorter:
    """Enters every line into an account; says which are stored."""

    def __init__(self, tally: ResultTally, judge: Callable[[Outcome], RetryDecision]) -> None:
        self.tally = tally
        self._judge = judge
        self._head = re.compile(re.escape(b"%s%s-" % (LINE_HEAD, tally.nonce.encode())) + _HEAD)

    def take(self, block: bytes) -> bytes:
        """Enter the lines of a block; returns those to store, each with its line end."""
        kept, odd = self._quickly(block)
        for line in odd:
            if line and not line.isspace():
                stored = self._slowly(line)
                if stored:
                    kept += (stored, b"\n")
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def _quickly(self, block: bytes) -> tuple[list[bytes], list[bytes]]:
        """Enter the succeeded lines of the usual form, each the first of its request; returns them
        in pieces of the block, and all other lines."""
        seen, entered = self.tally.seen, []
        kept: list[bytes] = []
        odd: list[bytes] = []
        tails: defaultdict[bytes, list[bytes]] = defaultdict(list)
        first = start = 0  # of the lines since the last odd one; of this line
        while (end := block.find(b"\n", start)) >= 0:
            found = self._head.match(block, start, end)
            at = block.find(_USAGE, found.end(), end) if found else -1
            if found and at >= 0 and block[end - 1] == _BRACKET:
                index = int(found[1])
                if index < len(seen) and not seen[index]:
                    seen[index] = 1
                    entered.append(index)
                    tails[found[2]].append(block[at + len(_USAGE) - 1 : end])
                    start = end + 1
                    continue
            kept.append(block[first:start])
            odd.append(block[start:end])
            start = first = end + 1
        kept.append(block[first:start])
        odd.append(block[start:])
        try:
            self._used(tails)
        except (ValueError, KeyError, TypeError):
            for index in entered:  # one of them is not what it looks like
                seen[index] = 0
            return [], block.split(b"\n")
        return kept, odd

    def _used(self, tails: Mapping[bytes, list[bytes]]) -> None:
        """Enter the usages, by model, with which these ends of lines begin. Raises, and enters
        nothing, if not all of them do."""
        used = {model.decode(): _usages(some) for model, some in tails.items()}
        for model, usages in used.items():
            self.tally.kinds["succeeded"] += len(usages)
            self.tally.spent(model, tokens_in(usages))

    def _slowly(self, line: bytes) -> bytes | None:
        """Enter any line; returns it if it is to be stored."""
        tally, found = self.tally, read_line(line)
        if found is None:
            tally.broken += 1
            return None
        index = tally.index_of(found.custom_id)
        if index is None:
            return None
        verdict = self._judge(found.outcome)
        tally.enter(index, found.outcome, verdict, found.model, found.tokens)
        return None if verdict.retry else found.stored


def _usages(tails: list[bytes]) -> list[Any]:
    """The usages with which these ends of lines begin. Raises if not all of them do."""
    ends = orjson.loads(b"[%s%s]" % (_OPEN, (b"," + _OPEN).join(tails)))
    if len(ends) != len(tails):
        raise ValueError
    return [end["result"]["message"]["usage"] for end in ends]
