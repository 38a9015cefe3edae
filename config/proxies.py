"""Which proxy an address is reached through, by ``HTTPS_PROXY`` and its relatives; pure.

The libraries that Penstock could leave this to differ: some reject an IPv6 network in ``NO_PROXY``,
others ignore ``ALL_PROXY``. Both kinds of workers follow the rules that are written down here.
"""

import contextlib
import ipaddress
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from penstock.errors import ConfigurationError

#: Schemes of proxies that both kinds of workers can use.
SCHEMES: Final = ("http", "https", "socks5", "socks5h")

_PORTS: Final = {"http": 80, "https": 443}


class Proxy(NamedTuple):
    """A proxy, and the variable that names it."""

    url: str
    variable: str

    @property
    def is_socks(self) -> bool:
        """Whether the proxy speaks SOCKS."""
        return self.url.startswith("socks")


def proxy_for(address: str, proxies: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for the URL ``address``; None: it is reached directly.

    ``proxies``: what `urllib.request.getproxies` returns. ``HTTP_PROXY`` and ``HTTPS_PROXY`` apply
    to addresses of their scheme and come before ``ALL_PROXY``; one without a scheme is an HTTP
    proxy. ``NO_PROXY`` is explained at `is_excluded`.

    Raises `ConfigurationError` if the proxy that applies is not a URL or has an unknown scheme. Its
    message does not contain the URL, which may have a password.

    >>> proxy_for("https://api.anthropic.com", {"all": "10.0.0.1:3128"})
    Proxy(url='http://10.0.0.1:3128', variable='ALL_PROXY')
    >>> proxy_for("http://10.1.2.3:8000", {"http": "http://proxy", "no": "10.0.0.0/8"}) is None
    True
    """
    parts = urlsplit(address)
    port = parts.port or _PORTS.get(parts.scheme, 0)  # the HTTP client rejects other schemes
    if is_excluded(parts.hostname or "", port, proxies.get("no", "")):
        return None
    for kind in (parts.scheme, "all"):
        value = proxies.get(kind, "").strip()
        if value:
            return _proxy(value, f"{kind.upper()}_PROXY")
    return None


def is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` lists this host.

    Its entries have commas between them. An entry is ``*`` (every host), an address, a network such
    as ``10.0.0.0/8`` or ``fd00::/8``, or a domain, which includes its subdomains. A leading dot or
    ``*.`` means the same domain. All but a network may end in a port. IPv6 addresses may be in
    brackets. Entries that cannot be read are ignored, as curl does.

    >>> is_excluded("api.example.com", 443, "localhost,.example.com")
    True
    >>> is_excluded("fd12::1", 443, "fd00::/8"), is_excluded("::1", 8000, "[::1]:9000")
    (True, False)
    """
    return any(_matches(entry.strip().lower(), host.lower(), port) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: int) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    entry = entry.rpartition("://")[2]
    address = _address(host)
    if "/" in entry:
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(_unbracketed(entry), strict=False)
            return address is not None and address in network
        return False
    name, its_port = _split_port(entry)
    if its_port is not None and its_port != port:
        return False
    other = _address(name)
    if other is not None or address is not None:
        return other == address
    domain = name.removeprefix("*").removeprefix(".").removesuffix(".")
    return bool(domain) and f".{host.removesuffix('.')}".endswith(f".{domain}")


def _split_port(entry: str) -> tuple[str, int | None]:
    """Split ``host:port``; an IPv6 address has a port only if it is in brackets."""
    host, _, port = entry.rpartition(":")
    if host and port.isdecimal() and (":" not in host or host.endswith("]")):
        return _unbracketed(host), int(port)
    return _unbracketed(entry), None


def _unbracketed(host: str) -> str:
    return host.replace("[", "").replace("]", "")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _proxy(value: str, variable: str) -> Proxy:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:  # a port that is no number, a bracket without its other half
        valid = False
    if not valid:
        raise ConfigurationError(f"{variable}: is not the URL of a proxy; write http://host:port")
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise ConfigurationError(
            f"{variable}: {parts.scheme}:// is not a kind of proxy; use {known}"
        )
    return Proxy(url, variable)
