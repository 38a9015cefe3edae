"""One streaming call of the Messages API, as the raw data of its events."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anthropic
import httpx2

from tasks.api.response_body import PIECE_BYTES, ResponseBody, ResponseTooLarge
from tasks.api.retry import RETRYABLE_ERRORS
from tasks.api.sse import InvalidResponse

#: The type of the error when what arrived is not what the API sends.
INVALID_RESPONSE: Final = "invalid_response"
#: The type of the error when a response is larger than any answer; another call would be, too.
RESPONSE_TOO_LARGE: Final = "response_too_large"
#: Errors in the middle of a stream after which the same request may succeed: the API's, and our own
#: for a lost connection and an invalid response. Those cannot occur in the results of a batch.
RETRYABLE_INTERRUPTIONS: Final = RETRYABLE_ERRORS | {
    "connection_error",
    "incomplete_stream",
    INVALID_RESPONSE,
}


class StreamInterrupted(Exception):
    """The answer was interrupted; ``error`` has a ``type`` and a ``message``.

    ``fault`` names the fault without the values of this one call, so that the same fault in two
    calls can be recognized.
    """

    def __init__(self, kind: str, message: str, *, fault: str = "") -> None:
        super().__init__(f"{kind}: {message}")
        self.error = {"type": kind, "message": message}
        self.fault = fault or str(self)

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

    async def events(self) -> AsyncIterator[list[bytes]]:
        """Yield the data of the events as they arrive, those of one chunk together.

        The other streams of the process run between two pieces of a large response. Raises
        `StreamInterrupted` if the body fails, is too large or is not an event stream.
        """
        headers = self.headers
        encoding = headers.get("content-encoding", "").strip().lower().removeprefix("identity")
        body = ResponseBody(headers.get("content-type", ""), encoding)
        taken = 0  # bytes since other streams could run
        try:
            async for chunk in self._chunks(encoding):
                if found := body.feed(chunk):
                    yield found
                taken += len(chunk)
                if taken >= PIECE_BYTES or body.has_more:
                    taken = 0
                    async for found in _rest_of_chunk(body):
                        yield found
            async for found in _portions(body.finish()):
                yield found
        except InvalidResponse as error:
            raise _invalid(error) from error
        except httpx2.DecodingError as error:
            what = f"the response cannot be decoded (content encoding {encoding}): {error}"
            raise _invalid(InvalidResponse(what)) from error
        except httpx2.HTTPError as error:
            # Once the body has begun, the SDK raises these errors of its transport unchanged.
            async for found in self._last_events(body):
                yield found
            silent = isinstance(error, httpx2.ReadTimeout)
            what = "fell silent" if silent else f"was interrupted: {type(error).__name__}"
            raise StreamInterrupted("connection_error", f"the stream {what}") from error

    async def _last_events(self, body: ResponseBody) -> AsyncIterator[list[bytes]]:
        """Yield the events that arrived whole before the connection was lost."""
        with suppress(InvalidResponse):
            yield body.feed(self._unread())
            async for found in _rest_of_chunk(body):
                yield found
            yield body.unfinished()

    def _chunks(self, encoding: str) -> AsyncIterator[bytes]:
        """Return the chunks of the body, which `ResponseBody` can decode."""
        # It decompresses gzip itself. Mostly nothing is encoded: the decoding layers of the SDK
        # are a sixth of the cost of a chunk.
        if encoding in ("", "gzip", "x-gzip"):
            return self._response.http_response.aiter_raw()
        return self._response.iter_bytes()

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


async def _rest_of_chunk(body: ResponseBody) -> AsyncIterator[list[bytes]]:
    """Let other streams run, then yield the events in the next piece, until there is none."""
    await asyncio.sleep(0)  # a chunk that has arrived already does not wait
    while body.has_more:
        if found := body.more():
            yield found
        await asyncio.sleep(0)


async def _portions(events: list[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the events in lists of about one piece each; other streams run in between."""
    portion: list[bytes] = []
    size = 0
    for event in events:
        portion.append(event)
        size += len(event)
        if size >= PIECE_BYTES:
            yield portion
            portion, size = [], 0
            await asyncio.sleep(0)
    yield portion


def _invalid(error: InvalidResponse) -> StreamInterrupted:
    if isinstance(error, ResponseTooLarge):
        return StreamInterrupted(RESPONSE_TOO_LARGE, str(error))
    what, _, _ = str(error).partition(" (")
    return StreamInterrupted(INVALID_RESPONSE, str(error), fault=f"{INVALID_RESPONSE}: {what}")


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
