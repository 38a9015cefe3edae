"""The simulator's counters."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stats:
    """Counters since the start or the last reset, as returned by GET /_sim/stats."""

    #: Responses begun, by endpoint ("POST /v1/messages") and status.
    requests: dict[str, Counter[str]] = field(default_factory=dict)
    messages_answered: int = 0  #: messages answered in full, without streaming
    messages_streamed: int = 0  #: streams begun
    messages_finished: int = 0  #: streams that reached message_stop
    deltas_sent: int = 0
    open_streams: int = 0
    max_open_streams: int = 0
    client_disconnects: int = 0  #: streams and slow responses that the client left early
    faults: Counter[str] = field(default_factory=Counter)  #: faults that fired, by name
    batches_created: int = 0
    batch_requests_created: int = 0
    batches_canceled: int = 0
    results_served: int = 0  #: batch results sent to their last line
    refused_429: int = 0

    def response_started(self, endpoint: str, status: int) -> None:
        """Count the beginning of a response."""
        self.requests.setdefault(endpoint, Counter())[str(status)] += 1
        if status == 429:
            self.refused_429 += 1

    def stream_opened(self) -> None:
        """Count a stream that begins."""
        self.messages_streamed += 1
        self.open_streams += 1
        self.max_open_streams = max(self.max_open_streams, self.open_streams)

    def stream_closed(self) -> None:
        """Count a stream that ends, for any reason."""
        self.open_streams -= 1

    def reset(self) -> None:
        """Restart all counters at zero, except for the streams that are open."""
        open_now = self.open_streams
        self.__dict__.update(vars(Stats()))
        self.open_streams = self.max_open_streams = open_now

    def as_dict(self) -> dict[str, Any]:
        """All counters."""
        shown = dict(vars(self))
        shown["requests"] = {name: dict(counts) for name, counts in self.requests.items()}
        shown["faults"] = dict(self.faults)
        return shown
