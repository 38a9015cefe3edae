"""One streaming call of the Messages API, as the raw data of its events."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anthropic
import httpx2

from tasks.api.response_body import ResponseBody
from tasks.api.retry import RETRYABLE_ERRORS
from tasks.api.sse import InvalidResponse

#: The type of the error when what arrived is not what the API sends.
INVALID_RESPONSE: Final = "invalid_response"
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

        Raises `StreamInterrupted` if the body fails or is not an event stream.
        """
        headers = self.headers
        # Nothing is encoded, so skip the decoding layers: they are a sixth of the cost of a chunk.
        encoding = headers.get("content-encoding", "").strip().removeprefix("identity")
        body = ResponseBody(headers.get("content-type", ""), encoding)
        plain = self._response.http_response.aiter_raw
        try:
            async for chunk in self._response.iter_bytes() if encoding else plain():
                if found := body.feed(chunk):
                    yield found
            yield body.finish()
        except InvalidResponse as error:
            raise _invalid(error) from error
        except httpx2.DecodingError as error:
            what = f"the response cannot be decoded (content encoding {encoding}): {error}"
            raise _invalid(InvalidResponse(what)) from error
        except httpx2.HTTPError as error:
            # Once the body has begun, the SDK raises these errors of its transport unchanged.
            with suppress(InvalidResponse):
                if found := [*body.feed(self._unread()), *body.unfinished()]:
                    yield found
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


def _invalid(error: InvalidResponse) -> StreamInterrupted:
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
