"""Sorts the lines of a shard's results: what is stored, what is sent again, what is no line; pure.

The loop runs once for each of up to 100,000 lines. Parsing takes most of its time, and finds a line
that is not whole; so what the API writes for nearly every request, a succeeded line that begins
with its wire id, is entered without much else. All other lines take the slow way.
"""

from collections.abc import Callable
from typing import Any

import orjson

from tasks.accounts import Account
from tasks.again import Outcome, Verdict
from tasks.result_lines import ID_END, ID_START, read_line, tokens_in


class Sorter:
    """Enters every line into an account; says which are stored."""

    def __init__(self, account: Account, judge: Callable[[Outcome], Verdict]) -> None:
        self.account = account
        self._judge = judge
        self._head = b"%s%s-" % (ID_START, account.nonce.encode())

    def take(self, block: bytes) -> bytes:
        """Enter the lines of a block; returns those to store, each with its line end."""
        kept: list[bytes] = []
        used: dict[str, list[dict[str, Any]]] = {}
        for line in block.split(b"\n"):
            if self._quickly(line, used):
                kept.append(line)
            elif line and not line.isspace():
                stored = self._slowly(line)
                if stored:
                    kept.append(stored)
        for model, usages in used.items():
            self.account.kinds["succeeded"] += len(usages)
            self.account.spent(model, tokens_in(usages))
        if not kept:
            return b""
        kept.append(b"")
        return b"\n".join(kept)

    def _quickly(self, line: bytes, used: dict[str, list[dict[str, Any]]]) -> bool:
        """Enter a succeeded line of the usual form; its usage is added to ``used``. False: it has
        another form, or is not the first of its request, and nothing is changed."""
        head, seen = self._head, self.account.seen
        first, end = len(head), len(head) + 6
        digits = line[first:end]
        if not (line.startswith(head) and line.startswith(ID_END, end) and digits.isdigit()):
            return False
        if not line.endswith(b"}"):
            return False  # cut, or with a blank behind it
        index = int(digits)
        if index >= len(seen) or seen[index]:
            return False
        try:
            result = orjson.loads(line)["result"]
            if result["type"] != "succeeded":
                return False
            message = result["message"]
            model, usage = message["model"], message["usage"]
        except (ValueError, KeyError, TypeError):
            return False
        if type(model) is not str or type(usage) is not dict:
            return False
        used.setdefault(model, []).append(usage)
        seen[index] = 1
        return True

    def _slowly(self, line: bytes) -> bytes | None:
        """Enter any line; returns it if it is to be stored."""
        account, found = self.account, read_line(line)
        if found is None:
            account.broken += 1
            return None
        index = account.index_of(found.custom_id)
        if index is None:
            return None
        verdict = self._judge(found.outcome)
        account.enter(index, found.outcome, verdict, found.model, found.tokens)
        return None if verdict.again else found.stored
