"""The HTTP client for streams: aiohttp, with the header limits of the SDK's default client.

By itself aiohttp rejects a response with a header line over 8 kB or with more than 128 headers,
after the call was made and billed. Gateways add such headers.
"""

from typing import Any, Final

import anthropic

#: Maximum bytes of all headers of a response, as in the SDK's default client (httpcore), which has
#: no limits for one line or for their number.
MAX_HEADER_BYTES: Final = 100 * 1024


class StreamHttpClient(anthropic.DefaultAioHttpClient):
    """The SDK's aiohttp client, direct and through proxies, with larger header limits."""

    def _init_transport(self, *args: Any, **options: Any) -> Any:
        return _with_header_limits(super()._init_transport(*args, **options))

    def _init_proxy_transport(self, *args: Any, **options: Any) -> Any:
        return _with_header_limits(super()._init_proxy_transport(*args, **options))


def _with_header_limits(transport: Any) -> Any:
    open_session = transport.get_client

    def get_client() -> Any:
        # The transport has no option for the arguments of its session.
        session = open_session()
        session._max_line_size = session._max_field_size = MAX_HEADER_BYTES
        session._max_headers = MAX_HEADER_BYTES  # in effect no limit of its own
        return session

    transport.get_client = get_client
    return transport
