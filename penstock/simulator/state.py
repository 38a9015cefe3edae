"""What all endpoints of one simulator process share."""

import itertools
import secrets
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.simulator import request_json
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.fault import Fault
from penstock.simulator.faults.registry import ActiveFaults
from penstock.simulator.limits import TokenBucket
from penstock.simulator.messages.threads import Threads
from penstock.simulator.options import Options
from penstock.simulator.stats import Stats

_MAX_LOGGED_BODY = 256 * 1024
_SECRET_HEADERS = frozenset({"authorization", "x-api-key"})


@dataclass
class LoggedRequest:
    """One API request, kept for tests that ask what was sent."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    size: int
    status: int = 0  #: 0 until the response begins, and for ever if it never does

    def as_dict(self) -> dict[str, Any]:
        """The request with its parsed body; None for one that is not JSON or too large."""
        try:
            body = request_json.loads(self.raw) if self.raw else None
        except ValueError:
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
    """The options, and everything that changes while the simulator runs."""

    options: Options
    stats: Stats = field(default_factory=Stats)
    faults: ActiveFaults = field(default_factory=ActiveFaults)
    #: messages answered in full, by the hash of their body
    live_paid: Counter[int] = field(default_factory=Counter)
    threads: Threads = field(default_factory=Threads)
    log: deque[LoggedRequest] = field(init=False)
    bucket: TokenBucket = field(init=False)

    def __post_init__(self) -> None:
        self._initial = self.options
        # A client may outlive a simulator, so ids differ between two runs.
        self._run = secrets.token_hex(4)
        self._count = itertools.count(1)
        self._apply_options()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Change options at run time. Raises `ValueError` or `TypeError` for bad ones."""
        self.options = self.options.changed(values)
        self._apply_options()

    def reset(self) -> None:
        """Forget everything but the options the process was started with."""
        self.options = self._initial
        self.stats.reset()
        self.faults.clear()
        self.live_paid.clear()
        self.threads.clear()
        self._apply_options()
        self.log.clear()

    def new_id(self, prefix: str) -> str:
        """An id that no earlier run has used."""
        return f"{prefix}_01{self._run}{next(self._count):012d}"

    def log_request(self, exchange: Exchange, endpoint: str) -> None:
        """Log a request, and count its response once that begins."""
        headers = {k: "***" if k in _SECRET_HEADERS else v for k, v in exchange.headers.items()}
        raw = bytes(exchange.body) if exchange.size <= _MAX_LOGGED_BODY else b""
        entry = LoggedRequest(exchange.method, exchange.path, headers, raw, exchange.size)
        self.log.append(entry)

        def started(status: int) -> None:
            entry.status = status
            self.stats.response_started(endpoint, status)

        exchange.on_start = started

    def count_fault(self, fault: Fault | None) -> None:
        """Count the effects of a fault that fired."""
        if fault is not None:
            self.stats.faults.update(fault.effects)

    def _apply_options(self) -> None:
        self.bucket = TokenBucket(self.options, time.monotonic())
        self.log = deque(getattr(self, "log", ()), maxlen=self.options.log_size)
