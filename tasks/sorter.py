"""Sorts the lines of a shard's results: what is stored, what is sent again, what is no line; pure.

The loop runs once for each of up to 100,000 lines, so a succeeded line of the usual form is entered
without a call of its own. Everything else takes the slow way, which decides alike.
"""

from collections.abc import Callable

from tasks.accounts import Account
from tasks.again import Outcome, Verdict
from tasks.result_lines import read_line


class Sorter:
    """Enters every line into an account; says which are stored."""

    def __init__(self, account: Account, judge: Callable[[Outcome], Verdict]) -> None:
        self.account = account
        self._judge = judge

    def take(self, block: bytes) -> bytes:
        """Enter the lines of a block; returns those to store, each with its line end."""
        kept = []
        for line in block.split(b"\n"):
            if line and not line.isspace():
                stored = self._slowly(line)
                if stored:
                    kept.append(stored)
        if not kept:
            return b""
        kept.append(b"")
        return b"\n".join(kept)

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
