"""Everything one simulator process knows."""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.active import ActiveFaults
from penstock.simulator.limits import TokenBucket
from penstock.simulator.options import Options
from penstock.simulator.stats import Stats

_MAX_LOGGED_BODY = 256 * 1024
_SECRET_HEADERS = frozenset({"authorization", "x-api-key"})


@dataclass
class LoggedRequest:
    """One API request, kept for the tests that ask what was sent."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    size: int
    status: int = 0
    """Zero until the answer begins, and for good when it never does."""

    def as_dict(self) -> dict[str, Any]:
        """Return the request with its JSON; the body is null when it was no JSON or too large."""
        try:
            body = orjson.loads(self.raw) if self.raw else None
        except orjson.JSONDecodeError:
            body = None
        return {
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": body,
            "body_bytes": self.size,
            "status": self.status,
        }


@dataclass
class State:
    """The options and all that changes while the simulator runs."""

    options: Options
    stats: Stats = field(default_factory=Stats)
    faults: ActiveFaults = field(default_factory=ActiveFaults)
    live_paid: Counter[int] = field(default_factory=Counter)
    """Messages answered whole, by the hash of their body."""
    log: deque[LoggedRequest] = field(init=False)
    bucket: TokenBucket = field(init=False)

    def __post_init__(self) -> None:
        """Set up what follows from the options."""
        self._initial = self.options
        # Ids differ between two runs, as a client that outlives a simulator expects.
        self._run = secrets.token_hex(4)
        self._count = itertools.count(1)
        self._apply_options()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Change options while running; raises ValueError or TypeError for bad ones."""
        self.options = self.options.changed(values)
        self._apply_options()

    def reset(self) -> None:
        """Forget everything but the options the process was started with."""
        self.options = self._initial
        self.stats.reset()
        self.faults.clear()
        self.live_paid.clear()
        self._apply_options()
        self.log.clear()

    def new_id(self, prefix: str) -> str:
        """Return an id nobody has seen before."""
        return f"{prefix}_01{self._run}{next(self._count):012d}"

    def log_request(self, exchange: Exchange, endpoint: str) -> None:
        """Keep a request, and count its answer once that begins."""
        headers = {k: "***" if k in _SECRET_HEADERS else v for k, v in exchange.headers.items()}
        raw = bytes(exchange.body) if exchange.size <= _MAX_LOGGED_BODY else b""
        entry = LoggedRequest(exchange.method, exchange.path, headers, raw, exchange.size)
        self.log.append(entry)

        def started(status: int) -> None:
            entry.status = status
            self.stats.response_started(endpoint, status)

        exchange.on_start = started

    def _apply_options(self) -> None:
        self.bucket = TokenBucket(self.options, time.monotonic())
        self.log = deque(getattr(self, "log", ()), maxlen=self.options.log_size)
