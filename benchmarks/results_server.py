"""A server with one ended batch, whose results it sends from memory.

The simulator renders every line when it is requested, which takes longer than any reader needs.
Like the API, this server sends the results in HTTP chunks and not in the order of the requests.
``python -m benchmarks.results_server --lines 100000`` prints its address.
"""

import argparse
import random
import socket
import threading
from datetime import UTC, datetime
from typing import Final

import orjson

from penstock.batches.wire import wire_id
from penstock.simulator.batches.store import scattered
from penstock.simulator.messages.prose import prose, seeded

NONCE: Final = "benchmark001"
BATCH: Final = "msgbatch_benchmark"
MODEL: Final = "claude-haiku-4-5"
_TEXTS: Final = 2_000
_WRITE: Final = 64 * 1024


def body_of(lines: int, size: int) -> bytes:
    """Render result lines of about ``size`` bytes each."""
    rng = random.Random(7)
    texts = [prose(seeded("benchmark", str(place)), size) for place in range(_TEXTS)]
    made = []
    for place, index in enumerate(scattered(lines)):
        output = rng.randrange(100, 400)
        message = {
            "id": f"msg_{place:024d}",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": _cut(texts[place % _TEXTS], size - 520)}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": rng.randrange(20, 2000),
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "output_tokens": output,
                "service_tier": "batch",
            },
        }
        result = {"type": "succeeded", "message": message}
        made.append(orjson.dumps({"custom_id": wire_id(NONCE, index), "result": result}))
    made.append(b"")
    return b"\n".join(made)


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def batch_of(lines: int, url: str) -> bytes:
    """Render the batch as the API returns it."""
    now = datetime.now(UTC).isoformat()
    counts = {"processing": 0, "succeeded": lines, "errored": 0, "canceled": 0, "expired": 0}
    times = {"created_at": now, "expires_at": now, "ended_at": now, "archived_at": None}
    batch = {
        "id": BATCH,
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": counts,
        "cancel_initiated_at": None,
        "results_url": f"{url}/v1/messages/batches/{BATCH}/results",
        **times,
    }
    return orjson.dumps(batch)


def serve(connection: socket.socket, batch: bytes, results: bytes) -> None:
    """Answer the requests of one connection."""
    with connection, connection.makefile("rb") as incoming:
        while request := incoming.readline():
            while incoming.readline().strip():
                pass
            if b"/results" in request.split()[1]:
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-jsonl\r\n"
                    b"transfer-encoding: chunked\r\n\r\n"
                )
                for start in range(0, len(results), _WRITE):
                    piece = results[start : start + _WRITE]
                    connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                connection.sendall(b"0\r\n\r\n")
            else:
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%s" % (len(batch), batch)
                )


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=1_450)
    asked = parser.parse_args()
    results = body_of(asked.lines, asked.bytes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        batch = batch_of(asked.lines, url)
        print(url, flush=True)
        while True:
            connection, _ = listener.accept()
            arguments = (connection, batch, results)
            threading.Thread(target=serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
