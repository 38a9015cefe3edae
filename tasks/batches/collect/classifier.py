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

from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.collect.tally import ResultTally
from tasks.batches.result_lines import ID_START, Outcome, read_line, tokens_in

#: How a succeeded line of the usual form begins: behind the nonce its index, then its model.
_HEAD: Final = (
    rb'([0-9]{6})","result":\{"type":"succeeded","message":\{'
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


class ResultClassifier:
    """Enters every line into an account; says which are stored."""

    def __init__(self, tally: ResultTally, decide: Callable[[Outcome], RetryDecision]) -> None:
        self.tally = tally
        self._decide = decide
        self._head = re.compile(re.escape(b"%s%s-" % (ID_START, tally.nonce.encode())) + _HEAD)

    def classify(self, block: bytes) -> bytes:
        """Enter the lines of a block; returns those to store, each with its line end."""
        kept, leftover = self._fast_path(block)
        for line in leftover:
            if line and not line.isspace():
                stored = self._slow_path(line)
                if stored:
                    kept += (stored, b"\n")
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def _fast_path(self, block: bytes) -> tuple[list[bytes], list[bytes]]:
        """Enter the succeeded lines of the usual form, each the first of its request; returns them
        in pieces of the block, and all other lines."""
        seen, entered = self.tally.seen, []
        kept: list[bytes] = []
        leftover: list[bytes] = []
        tails: defaultdict[bytes, list[bytes]] = defaultdict(list)
        first = start = 0  # of the lines since the last leftover one; of this line
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
            leftover.append(block[start:end])
            start = first = end + 1
        kept.append(block[first:start])
        leftover.append(block[start:])
        try:
            self._add_usage(tails)
        except (ValueError, KeyError, TypeError):
            for index in entered:  # one of them is not what it looks like
                seen[index] = 0
            return [], block.split(b"\n")
        return kept, leftover

    def _add_usage(self, tails: Mapping[bytes, list[bytes]]) -> None:
        """Enter the usages, by model, with which these ends of lines begin. Raises, and enters
        nothing, if not all of them do."""
        used = {model.decode(): _usages(some) for model, some in tails.items()}
        for model, usages in used.items():
            self.tally.kinds["succeeded"] += len(usages)
            self.tally.add_tokens(model, tokens_in(usages))

    def _slow_path(self, line: bytes) -> bytes | None:
        """Enter any line; returns it if it is to be stored."""
        tally, found = self.tally, read_line(line)
        if found is None:
            tally.invalid_lines += 1
            return None
        index = tally.index_of(found.custom_id)
        if index is None:
            return None
        decision = self._decide(found.outcome)
        tally.enter(index, found.outcome, decision, found.model, found.tokens)
        return None if decision.retry else found.stored


def _usages(tails: list[bytes]) -> list[Any]:
    """The usages with which these ends of lines begin. Raises if not all of them do."""
    ends = orjson.loads(b"[%s%s]" % (_OPEN, (b"," + _OPEN).join(tails)))
    if len(ends) != len(tails):
        raise ValueError
    return [end["result"]["message"]["usage"] for end in ends]
