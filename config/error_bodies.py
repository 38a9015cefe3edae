"""Bounds the bodies of responses that are read whole: those of errors and redirects.

The HTTP client reads and decompresses them before anything else sees the response. On the event
loop of the streams a large one would hold up every other stream.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

import httpx2

#: Maximum bytes of such a body that are kept. The API's own have less than a kilobyte.
MAX_ERROR_BODY_BYTES: Final = 1024 * 1024

_FRAMING: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


def bound_error_bodies(transport: Any) -> Any:
    """Let a transport cut the bodies of errors and redirects to `MAX_ERROR_BODY_BYTES`."""
    handle = transport.handle_async_request

    async def handle_async_request(request: httpx2.Request) -> httpx2.Response:
        response: httpx2.Response = await handle(request)
        return (
            await _with_bounded_body(response, request) if response.status_code >= 300 else response
        )

    transport.handle_async_request = handle_async_request
    return transport


async def _with_bounded_body(response: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
    body = bytearray()
    response.request = request
    try:
        # The status counts, even if the connection is lost in the middle of its description.
        with suppress(httpx2.HTTPError):
            async for piece in response.aiter_bytes():
                body += piece[: MAX_ERROR_BODY_BYTES - len(body)]
                if len(body) >= MAX_ERROR_BODY_BYTES:
                    break
                await asyncio.sleep(0)
    finally:
        await response.aclose()
    return httpx2.Response(
        response.status_code,
        headers=[pair for pair in response.headers.raw if pair[0].lower() not in _FRAMING],
        content=bytes(body),
        request=request,
        extensions=response.extensions,
    )
