"""The URL of Redis, read once for both of its readers: the driver and Celery's kombu.

The two read URLs differently: kombu does not verify certificates by default, ignores some options
and rejects others. So a URL is parsed here, and each reader gets one in its own words.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

#: What to do about a URL that cannot be parsed. The reason itself may have a part of the password.
MALFORMED: Final = "is not a URL; write / ? # @ and % in a password as %2F %3F %23 %40 %25"

_SCHEMES: Final = ("redis", "rediss", "unix")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_TLS: Final[tuple[str, ...]] = (
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
)
_OPTIONS: Final = ("db", "client_name", "username", "password", *_TLS)
#: Options of redis-py for which Penstock has a setting or a reason of its own.
_REPLACED: Final = {
    "socket_timeout": "set PENSTOCK_REDIS_TIMEOUT_S instead",
    "socket_connect_timeout": "set PENSTOCK_REDIS_TIMEOUT_S instead",
    "timeout": "set PENSTOCK_REDIS_TIMEOUT_S instead",
    "virtual_host": "write the number of the database as the path: redis://host/1",
}
_CERT_REQS: Final = ("required", "optional", "none")
_TRUE: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """The parts of a URL of Redis. Its repr has no password."""

    scheme: str  #: redis, rediss or unix
    host: str  #: empty for unix
    port: int | None
    path: str  #: of the socket; empty unless the scheme is unix
    db: int
    client_name: str
    username: str
    password: str = field(repr=False)
    tls: dict[str, str] = field(repr=False)  #: the options for rediss, by redis-py's names

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL. Raises `ValueError`, whose message has no part of the password."""
        if url.partition("://")[0] not in _SCHEMES:
            raise ValueError("must start with redis://, rediss:// or unix://")
        parts, port = _split(url)
        options = _options(parts.query)
        unix = parts.scheme == "unix"
        tls = _tls_options(parts.scheme, options)
        if unix and not parts.path.strip("/"):
            raise ValueError("has no path of a socket; write unix:///path/to/redis.sock")
        return cls(
            scheme=parts.scheme,
            host="" if unix else parts.hostname or "localhost",
            port=None if unix else port,
            path=_decoded(parts.path) if unix else "",
            db=_database("" if unix else parts.path, options),
            client_name=options.get("client_name", ""),
            username=_decoded(parts.username or "") or options.get("username", ""),
            password=_decoded(parts.password or "") or options.get("password", ""),
            tls=tls,
        )

    @property
    def address(self) -> str:
        """The URL for messages, without user, password and options."""
        if self.scheme == "unix":
            return f"unix://{self.path}"
        return f"{self.scheme}://{self._location}/{self.db}"

    @property
    def is_verified(self) -> bool:
        """Whether the server must prove that it is the one that the URL names."""
        return (
            self.scheme == "rediss"
            and self.tls["ssl_cert_reqs"] != "none"
            and self.tls["ssl_check_hostname"] == "true"
        )

    @property
    def driver_url(self) -> str:
        """The URL for redis-py."""
        named = {"client_name": self.client_name} if self.client_name else {}
        if self.scheme == "unix":
            query = urlencode({"db": self.db, **named})
            return f"unix://{self._login}{quote(self.path)}?{query}"
        query = urlencode({**self.tls, **named})
        return f"{self.scheme}://{self._login}{self._location}/{self.db}{query and f'?{query}'}"

    @property
    def broker_url(self) -> str:
        """The URL for kombu."""
        if self.scheme == "unix":
            return f"redis+socket://{self._login}{quote(self.path)}?virtual_host={self.db}"
        query = urlencode(self.tls)
        return f"{self.scheme}://{self._login}{self._location}/{self.db}{query and f'?{query}'}"

    @property
    def broker_tls(self) -> dict[str, Any] | None:
        """The value of Celery's ``broker_use_ssl``, which Flower reads instead of the URL."""
        if self.scheme != "rediss":
            return None
        check = self.tls["ssl_check_hostname"] == "true"
        return {**self.tls, "ssl_check_hostname": check}

    @property
    def _login(self) -> str:
        if not self.username and not self.password:
            return ""
        return f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"

    @property
    def _location(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a port that is no number, a bracket without its other half
        raise ValueError(MALFORMED) from None
    location = parts.netloc.rpartition("@")[2]
    # A reserved character in the password ends the host, and the rest is elsewhere in the URL.
    elsewhere = "@" in f"{parts.path}{parts.query}" or parts.fragment or url.endswith("#")
    missing = not host and location != ""
    if elsewhere or missing or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError(MALFORMED)
    if parts.scheme == "unix":
        if location:
            raise ValueError("names a host; write unix:///path/to/redis.sock")
    elif host and not _HOST.fullmatch(host):
        raise ValueError(MALFORMED)
    return parts, port


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(MALFORMED) from None


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            shown = name if re.fullmatch(r"[A-Za-z_]{1,40}", name) else "an option"
            advice = _REPLACED.get(name, f"known are {', '.join(_OPTIONS)}")
            raise ValueError(f"{shown} is no option of the URL: {advice}")
        if name in options:
            raise ValueError(f"{name} is given twice")
        if not value:
            raise ValueError(f"{name} has no value")
        options[name] = value
    return options


def _database(path: str, options: dict[str, str]) -> int:
    given = [each for each in (path.strip("/"), options.get("db", "")) if each]
    if not all(re.fullmatch(r"\d{1,9}", each, re.ASCII) for each in given):
        raise ValueError("the number of the database is not a number; write redis://host:6379/0")
    if len(set(map(int, given))) > 1:
        raise ValueError("names two databases, in its path and as db; write one of them")
    return int(given[0]) if given else 0


def _tls_options(scheme: str, options: dict[str, str]) -> dict[str, str]:
    given = {name: options[name] for name in _TLS if name in options}
    if scheme != "rediss":
        if given:
            raise ValueError(f"{next(iter(given))} needs TLS: write rediss:// instead")
        return {}
    kind = given.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if kind not in _CERT_REQS:
        raise ValueError(f"ssl_cert_reqs must be one of {', '.join(_CERT_REQS)}")
    check = _TRUE.get(given.get("ssl_check_hostname", "true").lower())
    if check is None:
        raise ValueError("ssl_check_hostname must be true or false")
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    # Without a verified certificate its names mean nothing.
    return {
        **given,
        "ssl_cert_reqs": kind,
        "ssl_check_hostname": "true" if check and kind != "none" else "false",
    }
