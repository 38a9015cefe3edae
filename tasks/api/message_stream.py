"""One call of the API, as raw bytes: what it may do and how it can go wrong."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anthropic
import httpx2

from tasks.api.retry import RETRYABLE_ERRORS

#: Errors in the middle of a stream after which the same request may succeed: the API's, and two of
#: our own for a lost connection. The API never sends those, so no batch result is retried for them.
RETRYABLE_INTERRUPTIONS: Final = RETRYABLE_ERRORS | {"connection_error", "incomplete_stream"}


class StreamInterrupted(Exception):
    """The answer stopped before its end. ``error`` has the API's ``type`` and ``message``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.error = {"type": kind, "message": message}

    @property
    def retryable(self) -> bool:
        """Whether going on may help."""
        return self.error["type"] in RETRYABLE_INTERRUPTIONS


class OpenStream:
    """An answer that has begun."""

    def __init__(self, response: anthropic.AsyncAPIResponse[Any]) -> None:
        self._response = response

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers."""
        return self._response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `StreamInterrupted` where the connection breaks."""
        # Not through the layers that decode: a sixth of what a chunk costs, and nothing is encoded.
        encoded = "content-encoding" in self.headers
        plain = self._response.http_response.aiter_raw
        try:
            async for chunk in self._response.iter_bytes() if encoded else plain():
                yield chunk
        except httpx2.HTTPError as error:
            # The SDK lets these through as they are once the body has begun.
            if unread := self._unread():
                yield unread
            silent = isinstance(error, httpx2.ReadTimeout)
            what = "fell silent" if silent else f"broke off: {type(error).__name__}"
            raise StreamInterrupted("connection_error", f"the stream {what}") from error

    def _unread(self) -> bytes:
        """What arrived before the connection broke and was not read by then. aiohttp raises the
        error first and has no public way to ask for the rest, which is received and paid."""
        stream: Any = self._response.http_response.stream
        for name in ("_stream", "_aiohttp_response", "content"):
            stream = getattr(stream, name, None)
        if not hasattr(stream, "_exception"):
            return b""
        stream._exception = None
        return bytes(stream.read_nowait())


@asynccontextmanager
async def open_stream(
    api: anthropic.AsyncAnthropic, body: dict[str, Any], headers: Mapping[str, str]
) -> AsyncIterator[OpenStream]:
    """Call the API; leaving the block closes the connection. Raises the SDK's errors.

    The body goes out as it is: ``extra_body`` replaces the SDK's own arguments, which would only
    be transformed again.
    """
    call = api.messages.with_streaming_response.create(
        model=body["model"],
        max_tokens=body["max_tokens"],
        messages=[],
        stream=True,
        extra_body=body,
        # gzip would hold deltas back until its block is full
        extra_headers={**headers, "Accept-Encoding": "identity"},
    )
    async with call as response:
        yield OpenStream(response)
