"""One HTTP request and its response, over ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

from penstock.simulator import request_json
from penstock.simulator.errors import ApiError
from penstock.simulator.mark import HEADER

ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]

#: The ASGI extension through which `uvicorn_server` lets the application cut a connection.
DISCONNECT_EXTENSION = "penstock.disconnect"


class Exchange:
    """A request, the means to respond to it, and what has been sent so far."""

    def __init__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, request_id: str
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.scheme: str = scope.get("scheme", "http")
        self.headers = {
            k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]
        }
        self.query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        self.request_id = request_id
        self.body = bytearray()
        self.size = 0
        self.disconnected = False
        self.status = 0
        #: Headers of every response to this request.
        self.response_headers: dict[str, str] = {
            "request-id": request_id,
            HEADER: "1",
            **_workspace_headers(self.headers),
        }
        self.on_start: Callable[[int], None] = lambda status: None
        self._receive = receive
        self._send = send
        self._extensions = scope.get("extensions") or {}

    async def read(self, limit: int) -> None:
        """Read the body. Raises `ApiError` when it is larger than ``limit`` bytes.

        An oversized body is read to its end and discarded: a client that is still writing would not
        see the response.
        """
        # One growing array: joining a list of parts would hold a batch of 256 MB twice.
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            part = message.get("body", b"")
            self.size += len(part)
            if self.size <= limit:
                body += part
            else:
                body.clear()
            if not message.get("more_body", False):
                break
        if self.size > limit:
            raise ApiError(
                "request_too_large",
                f"Request exceeds the maximum allowed number of bytes ({limit}).",
            )
        self.body = body

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status and the headers."""
        self.status = status
        self.on_start(status)
        both = {**self.response_headers, **headers}
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in both.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Send a part of the body, as one chunk."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def reply(
        self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a value as a complete JSON response."""
        await self.reply_json(request_json.dumps(value), status=status, headers=headers)

    async def reply_json(
        self, data: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a complete response whose body is written already."""
        shape = {"content-type": "application/json", "content-length": str(len(data))}
        await self.start(status, {**shape, **(headers or {})})
        await self.end(data)

    async def reply_error(self, error: ApiError) -> None:
        """Send an error."""
        await self.reply(
            error.envelope(self.request_id), status=error.status, headers=error.headers
        )

    async def wait_for_disconnect(self) -> None:
        """Wait until the client disconnects or the response is complete."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def disconnect(self, *, reset: bool = False) -> None:
        """Cut the connection. Written data still arrives, unless ``reset`` is set."""
        extension = self._extensions.get(DISCONNECT_EXTENSION)
        if extension is None:
            raise RuntimeError("cannot cut a connection: not served by server.uvicorn_server")
        self.disconnected = True
        extension["cut"](reset)
        # The server responds with a 500 when an application returns without a response,
        # so it must have noticed the end of the connection before.
        await self.wait_for_disconnect()

    async def drop_headers(self, where: str) -> None:
        """Cut the connection before the headers, or inside them."""
        if where == "inside":
            self._extensions[DISCONNECT_EXTENSION]["write"](b"HTTP/1.1 200 OK\r\ncontent-ty")
        await self.disconnect()

    async def run_while_connected(self, work: Awaitable[None]) -> bool:
        """Run ``work`` while the client is connected; False if the client left early."""
        task = asyncio.ensure_future(work)
        watcher = asyncio.ensure_future(self.wait_for_disconnect())
        try:
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
            # The end of a response wakes the watcher as well; by then the work is done or almost.
            left = not task.done()
        finally:
            watcher.cancel()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return self.disconnected or not left


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete."""


def _workspace_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that name organization and workspace; each key has a workspace."""
    key = headers.get("x-api-key") or headers.get("authorization", "")
    return {
        "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
        "anthropic-workspace-id": f"wrkspc_{sha256(key.encode()).hexdigest()[:24]}",
    }
