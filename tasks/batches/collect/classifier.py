"""Classifies the result lines of a shard: stored, retried, or left out. Pure.

To parse a line takes three times as long as to download it, and of a succeeded line only the index,
the model and the usage are needed. The API writes nearly all of these lines in the same form, with
the three near both ends. The fast path cuts them out of each line of that form and parses the
usages of a whole block at once. This is safe, since inside a JSON string a quote is always escaped:
what the fast path searches for is never part of an answer's text.

A line that differs from that form in a single byte, or whose usage does not parse, takes the slow
path. Both decide alike, except about what only a parser would find inside the answer: a line of
that form is stored as it is, and `penstock.batches.unreadable` is what a reader makes of it.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from penstock.batches.wire import LINE_HEAD, RESULT
from tasks.api.excerpt import excerpt
from tasks.batches.collect.retry_policy import RetryDecision
from tasks.batches.collect.tally import NO_LINE, SUCCEEDED, ResultTally
from tasks.batches.result_lines import Outcome, is_utf8, read_line, tokens_in

#: The beginning of a succeeded line in the usual form, from the end of its nonce: index and model.
_HEAD: Final = (
    rb"([0-9]{6})" + re.escape(RESULT) + rb'\{"type":"succeeded","message":\{'
    rb'(?:"id":"[^"\\]*","type":"message","role":"assistant",)?"model":"([^"\\]*)"'
)
#: What precedes the usage. If it occurs more than once, the first place is taken. If that one is
#: inside the answer's content, it is nested more deeply, so the rest of the line does not parse.
_USAGE: Final = b'"stop_sequence":null,"usage":{'
#: What is put before the rest of a line, so that it is JSON again, and only if the usage is a field
#: of the message itself.
_OPEN: Final = b'{"result":{"message":{"usage":'
#: The last byte of a line that has no white space at its end.
_BRACKET: Final = ord("}")


class ResultClassifier:
    """Counts every result line in a tally and returns the lines to store."""

    def __init__(self, tally: ResultTally, decide: Callable[[Outcome], RetryDecision]) -> None:
        self.tally = tally
        self._decide = decide
        #: how a result begins; a quote inside a text is escaped, so nothing else does
        self.begin = b"%s%s-" % (LINE_HEAD, tally.nonce.encode())
        self._head = re.compile(re.escape(self.begin) + _HEAD)

    def classify(self, block: bytes) -> bytes:
        """Count the lines of a block; returns those to store, each with its newline."""
        # Bytes that are not UTF-8 would make a whole file of results unreadable for most programs.
        kept, leftover = self._fast_path(block) if is_utf8(block) else ([], block.split(b"\n"))
        for line in leftover:
            if line and not line.isspace():
                for result in self._results_in(line):
                    stored = self._slow_path(result)
                    if stored:
                        kept += (stored, b"\n")
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def _fast_path(self, block: bytes) -> tuple[list[bytes], list[bytes]]:
        """Count the succeeded lines in the usual form.

        Returns the lines to store, as pieces of the block, and the leftover lines: those in another
        form, and further lines of a request that has one.
        """
        seen, entered = self.tally.seen, []
        kept: list[bytes] = []
        leftover: list[bytes] = []
        tails: defaultdict[bytes, list[bytes]] = defaultdict(list)
        first = start = 0  # of the piece since the last leftover line; of this line
        while (end := block.find(b"\n", start)) >= 0:
            found = self._head.match(block, start, end)
            at = block.find(_USAGE, found.end(), end) if found else -1
            if found and at >= 0 and block[end - 1] == _BRACKET:
                index = int(found[1])
                if index < len(seen) and not seen[index]:
                    seen[index] = SUCCEEDED
                    entered.append(index)
                    tails[found[2]].append(block[at + len(_USAGE) - 1 : end])
                    start = end + 1
                    continue
            kept.append(block[first:start])
            leftover.append(block[start:end])
            start = first = end + 1
        kept.append(block[first:start])
        leftover.append(block[start:])
        begun = len(entered) + sum(line.count(self.begin) for line in leftover)
        # If more results begin than that, a line was cut and the next one continues it.
        if block.count(self.begin) == begun:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._add_usage(tails)
                return kept, leftover
        for index in entered:  # one of these lines is not in the usual form after all
            seen[index] = NO_LINE
        return [], block.split(b"\n")

    def _add_usage(self, tails: Mapping[bytes, list[bytes]]) -> None:
        """Count the tokens of succeeded lines.

        ``tails`` has the ends of the lines, from the usage on, by model. Raises, and counts
        nothing, unless each begins with a usage and is the end of a line.
        """
        used = {model.decode(): _usages(some) for model, some in tails.items()}
        for model, usages in used.items():
            self.tally.kinds["succeeded"] += len(usages)
            self.tally.add_tokens(model, tokens_in(usages))

    def _results_in(self, line: bytes) -> list[bytes]:
        """Split a line at each result that begins in it, and leave out what is around them.

        A gateway may join lines, end them in another way, or make an array of them.
        """
        first = line.find(self.begin)
        if first < 0:
            return [line]
        found: list[bytes] = []
        while first >= 0:
            end = line.find(self.begin, first + 1)
            result = line[first : end if end >= 0 else len(line)]
            bare = result.rstrip(b" \t\r,]")
            found.append(bare if bare.endswith(b"}") else result)
            first = end
        return found

    def _slow_path(self, line: bytes) -> bytes | None:
        """Parse and count any line; returns it as it is stored. None: it is not stored."""
        tally, found = self.tally, read_line(line)
        if found is None:
            tally.invalid_lines += 1
            tally.first_invalid_line = tally.first_invalid_line or excerpt(line)
            return None
        index = tally.index_of(found.custom_id)
        if index is None:
            return None
        decision = self._decide(found.outcome)
        tally.enter(index, found.outcome, decision, found.model, found.tokens)
        return None if decision.retry else found.stored


def _usages(tails: list[bytes]) -> list[Any]:
    """Parse the usages with which the ends of lines begin. Raises unless each has one."""
    ends = orjson.loads(b"[%s%s]" % (_OPEN, (b"," + _OPEN).join(tails)))
    if len(ends) != len(tails):
        raise ValueError
    return [end["result"]["message"]["usage"] for end in ends]
