"""A small client of the control surface, for tests. It needs the standard library alone."""

from __future__ import annotations

import json
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen


class Control:
    """Asks a running simulator what happened, and tells it what shall go wrong."""

    def __init__(self, base_url: str, *, timeout_s: float = 60.0) -> None:
        """Remember where the simulator is: the line that it printed."""
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"not an address of a simulator: {base_url!r}")
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s

    def stats(self) -> dict[str, Any]:
        """Return the counters."""
        return cast(dict[str, Any], self._call("GET", "stats"))

    def requests(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the last API requests, oldest first: method, path, headers, body, status."""
        return cast(list[dict[str, Any]], self._call("GET", f"requests?limit={limit}"))

    def fault(self, **spec: Any) -> None:
        """Put a fault in force, such as `status=529, times=2, path="/v1/messages"`."""
        self._call("POST", "faults", spec)

    def clear_faults(self) -> None:
        """Forget all faults, and that directives have fired."""
        self._call("DELETE", "faults")

    def configure(self, **options: Any) -> None:
        """Change options of the running simulator."""
        self._call("POST", "options", options)

    def options(self) -> dict[str, Any]:
        """Return the options in force."""
        return cast(dict[str, Any], self._call("GET", "options"))

    def reset(self) -> None:
        """Forget counters, requests, faults and batches; take the first options again."""
        self._call("POST", "reset", {})

    def batches(
        self, batch_id: str | None = None, *, with_lines: bool = False
    ) -> list[dict[str, Any]]:
        """Return what became of all batches or of one, deleted ones included, oldest first.

        Each has id, created_at, status, counts, canceled, deleted, requests, paid (lines that
        succeeded) and first_custom_id; with_lines, also lines: [custom_id, hash of the params as
        `paid` has it, outcome], in the order they were sent. There is no outcome before the end.
        """
        query = urlencode({"ids": int(with_lines)} | ({"batch": batch_id} if batch_id else {}))
        return cast(list[dict[str, Any]], self._call("GET", f"batches?{query}"))

    def paid(self) -> dict[str, dict[str, int]]:
        """Return how often each request was paid for: {hash: {"batch": n, "live": n}}.

        The hash is of its params: the first 16 hexadecimal digits of the SHA-256 of
        `orjson.dumps(params, option=orjson.OPT_SORT_KEYS)`.
        """
        return cast(dict[str, dict[str, int]], self._call("GET", "paid"))

    def end_batch(self, batch_id: str) -> None:
        """End a batch now."""
        self._call("POST", f"batches/{batch_id}/end", {})

    def hold_batch(self, batch_id: str) -> None:
        """Keep a batch in progress until `release_batch`, `end_batch` or a cancellation."""
        self._call("POST", f"batches/{batch_id}/hold", {})

    def release_batch(self, batch_id: str) -> None:
        """Let a held batch end when its time has come."""
        self._call("POST", f"batches/{batch_id}/release", {})

    def archive_batch(self, batch_id: str) -> None:
        """Make a batch's results unavailable, as they are after 29 days."""
        self._call("POST", f"batches/{batch_id}/archive", {})

    def _call(self, method: str, path: str, value: Any = None) -> Any:
        data = None if value is None else json.dumps(value).encode()
        request = Request(f"{self.base_url}/_sim/{path}", data, method=method)  # noqa: S310
        try:
            with urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                return json.load(answer)
        except HTTPError as error:
            with error:
                message = json.load(error)["error"]["message"]
            raise ValueError(message) from None
