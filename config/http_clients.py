"""The HTTP clients of both kinds of workers, with one reading of the environment.

Streams use aiohttp, batches httpx2, and each reads proxies and certificates in its own way. Here
they are read once, by `config.proxies` and `tls_context`, and given to both.
"""

import importlib.util
import os
import socket
import ssl
import urllib.request
from base64 import b64encode
from http.cookiejar import CookieJar
from typing import Any, Final

import httpx2

from config.error_bodies import bound_error_bodies
from config.proxies import Proxy, proxy_for
from config.settings import WorkerSettings
from penstock.access.redaction import login_secrets, protect, shown_url
from penstock.errors import ConfigurationError

#: Where the API is without ``ANTHROPIC_BASE_URL``.
DEFAULT_BASE_URL: Final = "https://api.anthropic.com"

#: Seconds of silence after which the system checks a connection, seconds between two checks, and
#: how many may fail. A create call can be silent for minutes, and idle networks drop connections
#: without a word. The same as the SDK's.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}

#: Maximum redirects that one call follows. A gateway may redirect once or twice; a loop sends the
#: body again and again.
MAX_REDIRECTS: Final = 3


#: Errors after which the same call can never work: an address or its redirects lead nowhere.
class RedirectRefused(httpx2.RequestError):
    """The API redirects to another origin, which would get the credentials and the prompt."""


_WRONG_ADDRESS: Final = httpx2.UnsupportedProtocol | httpx2.TooManyRedirects | RedirectRefused


class _NoCookies(CookieJar):
    """Keeps no cookies: what one response sets must not reach the calls of other requests."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Ignore the cookies of a response."""


def check_http(settings: WorkerSettings) -> None:
    """Raise `ConfigurationError` if no call of the API could work; its line names the variable."""
    tls_context()
    _proxy_of(settings)


def sync_http_client(settings: WorkerSettings, timeout: httpx2.Timeout) -> httpx2.Client:
    """Return the client for batches. Raises `ConfigurationError`."""
    import anthropic

    transport = httpx2.HTTPTransport(
        verify=tls_context(),
        limits=anthropic.DEFAULT_CONNECTION_LIMITS,
        proxy=_httpx_proxy(settings),
        socket_options=_socket_options(),
    )
    return anthropic.DefaultHttpxClient(
        timeout=timeout,
        transport=transport,
        cookies=_NoCookies(),
        max_redirects=MAX_REDIRECTS,
        event_hooks={"response": [refuse_other_origin]},
    )


def async_http_client(
    settings: WorkerSettings, timeout: httpx2.Timeout, limits: httpx2.Limits
) -> httpx2.AsyncClient:
    """Return the client for streams. Raises `ConfigurationError`.

    Its transport is aiohttp, which reads a chunk at about half the CPU of the default one. Only
    the default one can use a SOCKS proxy.
    """
    import anthropic

    from config.aiohttp_client import StreamHttpClient

    proxy = _proxy_of(settings)
    if proxy and proxy.is_socks:
        transport = httpx2.AsyncHTTPTransport(
            verify=tls_context(),
            limits=limits,
            proxy=_httpx_proxy(settings),
            socket_options=_socket_options(),
        )
        return anthropic.DefaultAsyncHttpxClient(
            timeout=timeout,
            transport=bound_error_bodies(transport),
            cookies=_NoCookies(),
            max_redirects=MAX_REDIRECTS,
            event_hooks={"response": [_refuse_other_origin]},
        )
    return StreamHttpClient(
        timeout=timeout,
        limits=limits,
        verify=tls_context(),
        proxy=_httpx_proxy(settings),
        trust_env=False,
        cookies=_NoCookies(),
        max_redirects=MAX_REDIRECTS,
        event_hooks={"response": [_refuse_other_origin]},
    )


def refuse_other_origin(response: httpx2.Response) -> None:
    """Raise `RedirectRefused` for a redirect to another host, port or to http.

    The HTTP client would send ``x-api-key``, custom headers and the body there. The one exception
    is from http to https on the same host, by the default ports.
    """
    if not response.has_redirect_location:
        return
    here = response.request.url
    try:
        there = here.join(response.headers["location"])
    except httpx2.InvalidURL:
        there = None
    if there is not None and (there.origin == here.origin or _is_upgrade(here, there)):
        return
    target = shown_url(str(there)) if there is not None else "an address that is not a URL"
    raise RedirectRefused(
        f"redirects to {target}, which must not get the credentials; set ANTHROPIC_BASE_URL to the "
        "address that answers",
        request=response.request,
    )


async def _refuse_other_origin(response: httpx2.Response) -> None:
    refuse_other_origin(response)


def _is_upgrade(here: httpx2.URL, there: httpx2.URL) -> bool:
    return (
        (here.scheme, there.scheme) == ("http", "https")
        and here.host == there.host
        and (here.port or 80, there.port or 443) == (80, 443)
    )


def tls_context() -> ssl.SSLContext:
    """Return the certificates that are trusted: those of the system, or of ``SSL_CERT_FILE``.

    ``SSL_CERT_DIR`` is read if ``SSL_CERT_FILE`` is not set. Raises `ConfigurationError` if one of
    them has no certificates: without this check, every call would fail.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if not file and folder:
            os.listdir(folder)  # OpenSSL ignores a folder that does not exist
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        variable, path = ("SSL_CERT_FILE", file) if file else ("SSL_CERT_DIR", folder)
        if not path:
            raise
        what = (
            "is not a file of certificates (PEM)"
            if isinstance(error, ssl.SSLError)
            else (f"cannot be read ({error.strerror})")
        )
        raise ConfigurationError(
            f"{variable}: {path} {what}; correct the path or unset it"
        ) from None


def settings_fault(error: BaseException) -> bool:
    """Whether a call failed because of proxy, certificates or address, and reached no API."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError | _WRONG_ADDRESS):
            return True
        if isinstance(cause, httpx2.ProxyError) and "407" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _proxy_of(settings: WorkerSettings) -> Proxy | None:
    proxy = proxy_for(settings.anthropic_base_url or DEFAULT_BASE_URL, urllib.request.getproxies())
    if proxy and proxy.is_socks and importlib.util.find_spec("socksio") is None:
        raise ConfigurationError(
            f"{proxy.variable}: a SOCKS proxy needs the package socksio: pip install socksio"
        )
    return proxy


def _httpx_proxy(settings: WorkerSettings) -> httpx2.Proxy | None:
    proxy = _proxy_of(settings)
    if proxy is None:
        return None
    try:
        url = httpx2.URL(proxy.url)
    except httpx2.InvalidURL:
        raise ConfigurationError(f"{proxy.variable}: is not the URL of a proxy") from None
    if proxy.is_socks or not url.userinfo:
        return httpx2.Proxy(url)
    # As a header, since aiohttp warns of user and password given apart from it.
    credentials = b64encode(f"{url.username}:{url.password}".encode()).decode()
    protect(login_secrets(url.username, url.password))
    headers = {"proxy-authorization": f"Basic {credentials}"}
    return httpx2.Proxy(url.copy_with(username=None, password=None), headers=headers)


def _socket_options() -> list[Any]:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
