"""An API that answers calls with bytes as a test has scripted them, whatever HTTP says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
ENDED = "end_turn"


@dataclass(frozen=True)
class Answer:
    """What the API sends to one call, and whether it then falls silent or closes the connection.

    ``repeated`` is sent again and again until the caller closes the connection, and ``then`` a
    moment later than ``data``.
    """

    data: bytes = b""
    is_silent: bool = False
    repeated: bytes = b""
    then: bytes = b""


class RawApi:
    """The API; the last answer is repeated."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = answers
        self.bodies: list[dict[str, Any]] = []  #: of the calls so far
        self.heads: list[str] = []  #: request line and headers of all requests, redirected too
        self.url = ""
        self.sent = asyncio.Event()  #: an answer that ends in silence was sent
        self.serving: set[asyncio.Task[Any]] = set()  #: connections that are open

    @property
    def calls(self) -> int:
        return len(self.bodies)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self.serving.add(task)
            task.add_done_callback(self.serving.discard)
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            self.heads.append(head)
            if "content-length:" in head:
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                self.bodies.append(json.loads(await reader.readexactly(length)))
            answer = self._answers[min(self.calls, len(self._answers)) - 1]
            writer.write(answer.data)
            await writer.drain()
            if answer.then:
                await asyncio.sleep(0.05)
                writer.write(answer.then)
            while answer.repeated:
                writer.write(answer.repeated)
                await writer.drain()
                await asyncio.sleep(0.02)
            if answer.is_silent:
                self.sent.set()
                await reader.read()  # until the caller closes the connection


@asynccontextmanager
async def raw_api(*answers: Answer) -> AsyncIterator[RawApi]:
    """Start the API on a free port."""
    api = RawApi(*answers)
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    api.url = f"http://{host}:{port}"
    try:
        yield api
    finally:
        server.close()
        if api.serving:
            await asyncio.wait(api.serving, timeout=5.0)


def sse(*events: dict[str, Any]) -> bytes:
    """Events as the API writes them."""
    return b"".join(
        f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events
    )


def start(**usage: int) -> list[dict[str, Any]]:
    """The first events of an answer with one text block."""
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 20, "output_tokens": 1, **usage},
    }
    block = {"type": "text", "text": ""}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
    ]


def text(*pieces: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": piece},
        }
        for piece in pieces
    ]


def stop(output_tokens: int, reason: str = ENDED, **delta: Any) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None, **delta},
            "usage": {"output_tokens": output_tokens},
        },
        {"type": "message_stop"},
    ]


def answer(*events: dict[str, Any], is_silent: bool = False, headers: bytes = b"") -> Answer:
    """Status 200 and these events."""
    return Answer(OK + headers + b"\r\n" + sse(*events), is_silent)


def whole(*pieces: str, tokens: int = 10, headers: bytes = b"") -> Answer:
    """A complete answer."""
    return answer(*start(), *text(*pieces), *stop(tokens), headers=headers)


def error_event(kind: str, message: str = "Overloaded") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}
