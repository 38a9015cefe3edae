"""A subscriber in a process of its own, on one connection, for a pattern.

``python -m benchmarks.listen --redis URL --pattern 'penstock:*:events' --streams 9 --deltas 99``

While it listens it does as little as possible, to leave the machine to what is measured; the texts
are parsed after the last message. The text of each delta is the time at which the API wrote it, so
a message that several deltas were merged into has the delay of each.
"""

import argparse
import gc
import itertools
import json
import socket
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis
import orjson
import redis

from benchmarks.figures import percentile, spread
from penstock.events import END, HEARTBEAT

#: What the last message of a channel contains; the baseline uses the same words.
LAST: Final = END.encode()
#: Seconds at the beginning that are left out of the steady figures.
START_S: Final = 3

#: When a message arrived, its channel, and its content.
Heard = tuple[int, bytes, bytes]


@dataclass(slots=True)
class Tally:
    """What arrived of the answers."""

    delays_ns: list[int] = field(default_factory=list)
    messages: int = 0
    holes: int = 0  #: messages whose number is not that of the one before plus one
    complete: int = 0  #: channels on which every delta arrived, once and in order
    equal: int = 0  #: ... and whose stored text is the same
    by_second: dict[int, list[int]] = field(default_factory=dict)  #: delays, by time of arrival
    first_ns: int = 0
    last_ns: int = 0

    def _steady(self) -> list[int]:
        """The delays after the first seconds, in which hundreds of streams start at once.

        All delays, if the run is not longer than that.
        """
        late = [delays for second, delays in self.by_second.items() if second >= START_S]
        return sorted(itertools.chain.from_iterable(late)) or sorted(self.delays_ns)

    def _steady_per_s(self) -> float | None:
        """Deltas per second between the start and the end, while all streams are running."""
        full = [len(delays) for _, delays in sorted(self.by_second.items())]
        return median(full[START_S:-START_S]) if len(full) > 2 * START_S else None

    def figures(self) -> dict[str, Any]:
        """The tally as plain data."""
        seconds = (self.last_ns - self.first_ns) / 1e9 or 1.0
        return {
            "deltas": len(self.delays_ns),
            "seconds": round(seconds, 2),
            "deltas_per_s": round(len(self.delays_ns) / seconds),
            "steady_per_s": self._steady_per_s(),
            "messages": self.messages,
            "holes": self.holes,
            "complete": self.complete,
            "texts_equal": self.equal,
            "latency_ms": spread(self.delays_ns, scale=1e-6),
            "steady_p99_ms": spread(self._steady(), scale=1e-6).get("p99"),
            # Separates a slow start from a slow run.
            "p99_ms_by_second": [
                round(percentile(sorted(delays), 0.99) / 1e6)
                for _, delays in sorted(self.by_second.items())
            ],
        }


def connected(url: str, pattern: str) -> socket.socket:
    """Open a connection that subscribes to ``pattern``."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port or 6379))
    if address.password:
        connection.sendall(b"AUTH %b\r\n" % address.password.encode())
    connection.sendall(b"PSUBSCRIBE %b\r\n" % pattern.encode())
    return connection


def listen(connection: socket.socket, streams: int, timeout: float) -> list[Heard]:
    """Collect everything that is published until ``streams`` channels have ended."""
    reader, heard, ended = hiredis.Reader(), list[Heard](), 0
    deadline = time.monotonic() + timeout
    connection.settimeout(1)
    while ended < streams and time.monotonic() < deadline:
        try:
            data = connection.recv(1 << 18)
        except TimeoutError:
            continue
        now = time.monotonic_ns()
        reader.feed(data)
        while (message := reader.gets()) is not False:
            if message[:1] != [b"pmessage"]:  # the replies to AUTH and to PSUBSCRIBE
                continue
            heard.append((now, message[2], message[3]))
            ended += LAST in message[3]
    return heard


def tally(heard: list[Heard], deltas: int, stored: redis.Redis | None) -> Tally:
    """Account for every delta; ``stored`` is the Redis with the stored texts, if any."""
    result, texts = Tally(messages=len(heard)), dict[bytes, list[bytes]]()
    last_n: dict[bytes, int] = {}
    for now, channel, line in heard:
        if HEARTBEAT.encode() in line:
            continue
        text, n = _text_of(line)
        result.holes += n > 0 and n != last_n.get(channel, n - 1) + 1
        last_n[channel] = n
        if text:
            texts.setdefault(channel, []).append(text)
            result.first_ns, result.last_ns = result.first_ns or now, now
            delays = [now - int(stamp) for stamp in text.split()]
            result.delays_ns += delays
            result.by_second.setdefault((now - result.first_ns) // 1_000_000_000, []).extend(delays)
    for channel, parts in texts.items():
        whole = b"".join(parts)
        stamps = [int(stamp) for stamp in whole.split()]
        result.complete += len(stamps) == deltas and stamps == sorted(stamps)
        if stored is not None:
            result.equal += whole == stored.get(channel.replace(b":events", b":text"))
    return result


def _text_of(line: bytes) -> tuple[bytes, int]:
    """The text in a message and its number; 0 for the baseline, which has no numbers."""
    if not line.startswith(b"{"):
        return (b"" if line == LAST else line), 0
    event = orjson.loads(line)
    delta = event["data"].get("delta") or {}
    return str(delta.get("text", "")).encode(), event["n"]


def main() -> None:
    """Print ``ready``, listen, print ``heard``, and print the tally as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--deltas", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--stored", action="store_true", help="compare with the stored texts")
    asked = parser.parse_args()
    gc.disable()
    with connected(asked.redis, asked.pattern) as connection:
        print("ready", flush=True)
        heard = listen(connection, asked.streams, asked.timeout)
        print("heard", flush=True)
    stored = redis.Redis.from_url(asked.redis) if asked.stored else None
    print(json.dumps(tally(heard, asked.deltas, stored).figures()), flush=True)


if __name__ == "__main__":
    main()
