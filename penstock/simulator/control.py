"""A client of the control endpoints, for tests. Needs only the standard library."""

import json
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen


class Control:
    """Reads what a running simulator has seen, and orders its faults.

    ``base_url`` is the address that the simulator printed. Raises `ValueError` for a request that
    the simulator refuses, with its message::

        control = Control("http://127.0.0.1:8080")
        control.fault(status=529, times=2)
        print(control.stats()["faults"])
    """

    def __init__(self, base_url: str, *, timeout_s: float = 60.0) -> None:
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"not an HTTP address: {base_url!r}")
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s

    def stats(self) -> dict[str, Any]:
        """The counters since the start or the last reset, see `penstock.simulator.stats`."""
        return cast(dict[str, Any], self._call("GET", "stats"))

    def requests(self, limit: int = 100) -> list[dict[str, Any]]:
        """The last API requests, oldest first: method, path, headers, body, status."""
        return cast(list[dict[str, Any]], self._call("GET", f"requests?limit={limit}"))

    def fault(self, **spec: Any) -> None:
        """Put a fault in force, such as ``status=529, times=2, path="/v1/messages"``."""
        self._call("POST", "faults", spec)

    def clear_faults(self) -> None:
        """Remove all faults, and forget which directives have fired."""
        self._call("DELETE", "faults")

    def configure(self, **options: Any) -> None:
        """Change options of the running simulator, see `penstock.simulator.options`."""
        self._call("POST", "options", options)

    def options(self) -> dict[str, Any]:
        """The options in force."""
        return cast(dict[str, Any], self._call("GET", "options"))

    def reset(self) -> None:
        """Clear counters, requests, faults and batches; restore the first options."""
        self._call("POST", "reset", {})

    def batches(
        self, batch_id: str | None = None, *, with_lines: bool = False
    ) -> list[dict[str, Any]]:
        """What became of all batches or of one, deleted ones included, oldest first.

        Each has ``id``, ``created_at``, ``status``, ``counts``, ``canceled``, ``deleted``,
        ``requests``, ``paid`` (lines that succeeded) and ``first_custom_id``; with ``with_lines``
        also ``lines``: ``[custom_id, hash of the params as in paid(), outcome]`` in the order sent.
        The outcome is None before the end of the batch, and the hash for a moment after the create.
        """
        query = urlencode({"ids": int(with_lines)} | ({"batch": batch_id} if batch_id else {}))
        return cast(list[dict[str, Any]], self._call("GET", f"batches?{query}"))

    def paid(self) -> dict[str, dict[str, int]]:
        """How often each request was paid for: ``{hash: {"batch": n, "live": n}}``.

        The hash is that of its params: the first 16 hexadecimal digits of the SHA-256 of
        ``orjson.dumps(params, option=orjson.OPT_SORT_KEYS)``. A live call's params are its whole
        body.
        """
        return cast(dict[str, dict[str, int]], self._call("GET", "paid"))

    def end_batch(self, batch_id: str) -> None:
        """End a batch now."""
        self._call("POST", f"batches/{batch_id}/end", {})

    def hold_batch(self, batch_id: str) -> None:
        """Keep a batch in progress until it is released, ended or canceled."""
        self._call("POST", f"batches/{batch_id}/hold", {})

    def release_batch(self, batch_id: str) -> None:
        """Let a held batch end when it is due."""
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
