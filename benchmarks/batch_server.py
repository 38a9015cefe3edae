"""A server that creates and lists batches at almost no cost.

The simulator validates and keeps every request of a batch, which takes longer than a client needs
to send them. This server only counts them. ``python -m benchmarks.batch_server`` prints its
address.
"""

import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

import orjson

_MARK: Final = b'"custom_id":'
_READ: Final = 256 * 1024
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Batches:
    """The batches created so far, newest first."""

    def __init__(self) -> None:
        self._made: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def make(self, requests: int) -> dict[str, Any]:
        """Create a batch, which never ends."""
        now = datetime.now(UTC)
        counts = {"succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        with self._lock:
            batch = {
                "id": f"msgbatch_{len(self._made):024d}",
                "type": "message_batch",
                "processing_status": "in_progress",
                "request_counts": {"processing": requests, **counts},
                "created_at": now.isoformat(),
                "expires_at": (now + timedelta(days=1)).isoformat(),
                **dict.fromkeys(("ended_at", "archived_at", "cancel_initiated_at", "results_url")),
            }
            self._made.insert(0, batch)
        return batch

    def shown(self, path: str) -> dict[str, Any]:
        """Return the batch that the path names, or all of them."""
        with self._lock:
            made = list(self._made)
        for batch in made:
            if str(batch["id"]) in path:
                return batch
        ends = {"first_id": made[0]["id"], "last_id": made[-1]["id"]} if made else {}
        return {"data": made, "has_more": False, **ends}


def requests_in(incoming: BinaryIO, length: int) -> int:
    """Read a body and count its requests."""
    count, kept = 0, b""
    while length:
        piece = incoming.read(min(length, _READ))
        if not piece:
            raise ConnectionError
        length -= len(piece)
        seen = kept + piece
        count += seen.count(_MARK)
        kept = seen[-len(_MARK) + 1 :]
    return count


def serve(connection: socket.socket, batches: Batches) -> None:
    """Answer the requests of one connection."""
    with connection, connection.makefile("rb") as incoming:
        while line := incoming.readline():
            method, path, _ = line.decode().split()
            length = 0
            while header := incoming.readline().strip().lower():
                name, _, value = header.partition(b":")
                length = int(value) if name == b"content-length" else length
            requests = requests_in(incoming, length)
            found = batches.make(requests) if method == "POST" else batches.shown(path)
            body = orjson.dumps(found)
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            connection.sendall(head % len(body) + body)


def main() -> None:
    """Serve until the process is ended."""
    batches = Batches()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, batches), daemon=True).start()


if __name__ == "__main__":
    main()
