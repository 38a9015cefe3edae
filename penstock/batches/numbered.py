"""Requests that are read from a file, with the numbers that messages about them name."""

from collections.abc import Iterable, Iterator
from typing import Any


class NumberedRequests:
    """An iterable of requests that knows the line of the one that it returned last.

    `penstock.batches.client.Batches.create` names this line in its errors, so that blank lines
    count as lines. For example::

        requests = NumberedRequests([(1, {"custom_id": "a", "params": params}), (3, {})])
    """

    def __init__(self, numbered: Iterable[tuple[int, Any]]) -> None:
        self._numbered = numbered
        self.line = 0  #: the line of the last request

    def __iter__(self) -> Iterator[Any]:
        for line, request in self._numbered:
            self.line = line
            yield request
