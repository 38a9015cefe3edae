"""The HTTP client for streams: aiohttp, with the header limits of the SDK's default client.

By itself aiohttp rejects a response with a header line over 8 kB or with more than 128 headers,
after the call was made and billed. Gateways add such headers. It also keeps cookies, which would
pass from one request to all others of the process.
"""

import functools
from typing import Any, Final

import aiohttp
import anthropic
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from config.error_bodies import bound_error_bodies

#: Maximum bytes of all headers of a response, as in the SDK's default client (httpcore), which has
#: no limits for one line or for their number.
MAX_HEADER_BYTES: Final = 100 * 1024


class _ResponseHandler(ResponseHandler):
    """Reports a body whose framing is damaged, such as by a chunk size that is not a number.

    By itself aiohttp closes the connection and lets the reader of the body wait for ever, without
    any timeout.
    """

    def set_exception(self, *exception: Any) -> None:
        """Set an error of HTTP for the reader of the body as well, unless it is complete."""
        super().set_exception(*exception)
        body = self._payload if isinstance(exception[0], HttpProcessingError) else None
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError(f"damaged body: {exception[0]}"))


class StreamHttpClient(anthropic.DefaultAioHttpClient):
    """The SDK's aiohttp client, direct and through proxies, with larger header limits.

    Its sessions keep no cookies, and the bodies of errors are bounded.
    """

    def _init_transport(self, *args: Any, **options: Any) -> Any:
        return _adapted(super()._init_transport(*args, **options))

    def _init_proxy_transport(self, *args: Any, **options: Any) -> Any:
        return _adapted(super()._init_proxy_transport(*args, **options))


def _adapted(transport: Any) -> Any:
    open_session = transport.get_client

    def get_client() -> Any:
        # The transport has no option for the arguments of its session.
        session = open_session()
        session._max_line_size = session._max_field_size = MAX_HEADER_BYTES
        session._max_headers = MAX_HEADER_BYTES  # in effect no limit of its own
        session._cookie_jar = aiohttp.DummyCookieJar()
        connector = session._connector
        connector._factory = functools.partial(_ResponseHandler, **connector._factory.keywords)
        return session

    transport.get_client = get_client
    return bound_error_bodies(transport)
