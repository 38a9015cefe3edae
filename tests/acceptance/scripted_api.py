"""A server that answers each request with the bytes that a test has written for it."""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 1},
}
START: dict[str, Any] = {"type": "message_start", "message": MESSAGE}
END: list[dict[str, Any]] = [
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]


def block(index: Any = 0, **fields: Any) -> dict[str, Any]:
    content = {"type": "text", "text": "", **fields}
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: Any = 0, **fields: Any) -> dict[str, Any]:
    fields = {"type": "text_delta", **fields}
    return {"type": "content_block_delta", "index": index, "delta": fields}


def sse(*events: dict[str, Any] | bytes) -> bytes:
    """The body of a stream; bytes are written as they are."""
    return b"".join(
        each
        if isinstance(each, bytes)
        else b"event: %s\ndata: %s\n\n" % (str(each["type"]).encode(), json.dumps(each).encode())
        for each in events
    )


def answer(*texts: str) -> bytes:
    """The body of a correct stream of one text block."""
    return sse(START, block(), *(delta(text=text) for text in texts), *END)


@dataclass
class Reply:
    """One response with the status 200."""

    body: bytes
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)


class ScriptedApi:
    """Answers a request by its prompt, the name of a reply. A context manager."""

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        self.calls: Counter[str] = Counter()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = body["messages"][0]["content"]
                api.calls[name] += 1
                reply = replies[name]
                self.send_response(200)
                self.send_header("Content-Type", reply.content_type)
                for header, value in reply.headers.items():
                    self.send_header(header, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "ScriptedApi":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
