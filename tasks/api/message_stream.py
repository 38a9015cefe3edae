"""One streaming call of the Messages API, as raw bytes."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anthropic
import httpx2

from tasks.api.retry import RETRYABLE_ERRORS

#: Errors in the middle of a stream after which the same request may succeed: the API's, and two of
#: our own for a lost connection. Those two cannot occur in the results of a batch.
RETRYABLE_INTERRUPTIONS: Final = RETRYABLE_ERRORS | {"connection_error", "incomplete_stream"}


class StreamInterrupted(Exception):
    """The answer was interrupted; ``error`` has a ``type`` and a ``message``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.error = {"type": kind, "message": message}

    @property
    def retryable(self) -> bool:
        """Whether resuming may succeed."""
        return self.error["type"] in RETRYABLE_INTERRUPTIONS


class OpenStream:
    """A response of the API that has begun."""

    def __init__(self, response: anthropic.AsyncAPIResponse[Any]) -> None:
        self._response = response

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the response."""
        return self._response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `StreamInterrupted` if that fails."""
        # Nothing is encoded, so skip the decoding layers: they are a sixth of the cost of a chunk.
        encoded = "content-encoding" in self.headers
        plain = self._response.http_response.aiter_raw
        try:
            async for chunk in self._response.iter_bytes() if encoded else plain():
                yield chunk
        except httpx2.HTTPError as error:
            # Once the body has begun, the SDK raises these errors of its transport unchanged.
            if unread := self._unread():
                yield unread
            silent = isinstance(error, httpx2.ReadTimeout)
            what = "fell silent" if silent else f"was interrupted: {type(error).__name__}"
            raise StreamInterrupted("connection_error", f"the stream {what}") from error

    def _unread(self) -> bytes:
        """Return what arrived before the connection was lost and was not read yet.

        That part is received and billed, but aiohttp raises the error first and has no public way
        to read the rest.
        """
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

    The body is sent as it is: ``extra_body`` replaces the SDK's own arguments, which it would
    transform again.
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
