"""Removes the secrets of this process from every text that leaves it.

Settings give their secrets to `protect` when they are read. Texts that quote what arrived from
outside (errors of a transport, of the API, of Redis) pass `redacted` before they are logged,
recorded or shown: a server, or a proxy, may echo what it was sent.
"""

import html
import json
import logging
import re
import sys
import threading
import traceback
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlsplit

#: What takes the place of a secret.
REDACTED: Final = "[redacted]"
#: Minimum characters of a secret that is recognized: shorter ones are parts of ordinary words.
MIN_CHARACTERS: Final = 6

#: Keys with which the documentation starts workers of the simulator; they are parts of its texts.
_NOT_SECRET: Final = frozenset({"simulated", "simulated-key"})
#: Names of variables whose values are secrets, such as those of the spool's storage.
_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|PWD|CREDENTIAL|AUTH", re.IGNORECASE)
_LOGIN: Final = re.compile(r"://([^:/?#\s]*):(\S+)@")
#: What the values of such variables may be instead: paths, addresses, numbers, switches.
_HARMLESS: Final = re.compile(r"[/~.]|\w+://|[\d.]+$|(true|false)$", re.IGNORECASE)
#: Text in quotation marks, with the prefix that Python gives to bytes.
_QUOTED: Final = re.compile(r"""(?<!\w)(?:bytearray\()?b?(['"])(?:\\.|(?!\1).)*(?:\1|$)\)?""", re.S)


class Redactor:
    """Knows secrets, in every form in which they appear in texts. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: Iterable[str]) -> None:
        """Recognize these secrets from now on."""
        forms = {form for secret in secrets if _is_secret(secret) for form in forms_of(secret)}
        with self._lock:
            if forms <= self._forms:
                return
            self._forms |= forms
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def redact(self, text: str) -> str:
        """Return ``text`` with each secret replaced by `REDACTED`."""
        return self._pattern.sub(REDACTED, text) if self._pattern else text

    @property
    def longest(self) -> int:
        """The length of the longest form of a secret."""
        with self._lock:
            return max(map(len, self._forms), default=0)


def _is_secret(value: str) -> bool:
    return len(value) >= MIN_CHARACTERS and value not in _NOT_SECRET


def forms_of(secret: str) -> set[str]:
    r"""Return the forms in which a text may contain a secret: in URLs, JSON, reprs and HTML.

    >>> sorted(forms_of('a"b c'))
    ['YSJiIGM=', 'a"b c', 'a%22b%20c', 'a%22b+c', 'a&quot;b c', 'a\\"b c']
    """
    raw = secret.encode(errors="surrogatepass")
    quoted = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    return {
        secret,
        *quoted,
        *(re.sub("%..", lambda match: match[0].lower(), each) for each in quoted),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(raw)[2:-1],
        html.escape(secret),
        b64encode(raw).decode(),
    }


def login_secrets(user: str, password: str) -> list[str]:
    """Return what must not be shown of a user and password: the password, and both together."""
    if len(password) < MIN_CHARACTERS:
        return []
    return [password, f"{user}:{password}", b64encode(f"{user}:{password}".encode()).decode()]


def environment_secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets in environment variables: by their names, and passwords in URLs.

    >>> list(environment_secrets({"AWS_SECRET_ACCESS_KEY": "abcdefgh", "LANG": "C.UTF-8"}))
    ['abcdefgh']
    """
    for name, value in environment.items():
        for user, password in _LOGIN.findall(value):
            yield from login_secrets(user, password)
        if name.startswith("PENSTOCK_"):
            continue  # these have types of their own
        if name == "ANTHROPIC_CUSTOM_HEADERS":
            yield from _header_values(value)
        elif name.startswith("FSSPEC_") and value.lstrip().startswith("{"):
            yield from _json_secrets(value)
        elif _SECRET_NAME.search(name) and not _HARMLESS.match(value):
            yield value.strip()
            user, colon, password = value.strip().partition(":")
            if colon:
                yield from login_secrets(user, password)


def _header_values(lines: str) -> Iterator[str]:
    for line in lines.split("\n"):
        value = line.partition(":")[2].strip()
        yield value
        yield value.rpartition(" ")[2]  # without its scheme: Bearer, Basic


def _json_secrets(text: str) -> Iterator[str]:
    try:
        options = json.loads(text)
    except ValueError:
        return
    for name, value in options.items() if isinstance(options, dict) else ():
        if isinstance(value, str) and _SECRET_NAME.search(name):
            yield value


_process = Redactor()


def protect(secrets: Iterable[str]) -> None:
    """Remove these secrets from all texts of this process from now on."""
    _process.add(secrets)


def redacted(text: str) -> str:
    """Return ``text`` without the secrets of this process."""
    return _process.redact(text)


def redacted_beginning(text: str, limit: int) -> str:
    """Return the first ``limit`` characters, without a part of a secret at the cut."""
    return redacted(text[: limit + _process.longest])[:limit]


def redacted_value(value: Any) -> Any:
    """Return a value of JSON types with all its texts redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: redacted_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_value(each) for each in value]
    return value


def redact_exception(error: BaseException) -> None:
    """Remove the secrets from an exception and all its causes, which tracebacks show."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.args = tuple(redacted(arg) if isinstance(arg, str) else arg for arg in each.args)
        waiting += [each.__cause__, each.__context__]


def error_words(error: BaseException) -> str:
    """Return an error of a transport as its class and its text, without what the text quotes.

    What is quoted may be a header with a credential that this process does not know.

    >>> error_words(ValueError("illegal header line: bytearray(b'set-cookie: id=1')"))
    'ValueError: illegal header line: …'
    """
    text = redacted(_QUOTED.sub("…", str(error))).strip()
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def shown_url(url: str) -> str:
    """Return a URL without user, password and query; its scheme alone if it is malformed.

    >>> shown_url("https://me:pass@gateway.example:8443/claude?key=1")
    'https://gateway.example:8443/claude'
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"{scheme}://…"
    if not host or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return f"{scheme}://…"  # a password with characters that end the host
    host = f"[{host}]" if ":" in host else host
    return redacted(f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}")


def redact_process(environment: Mapping[str, str]) -> None:
    """Redact the logs and the uncaught exceptions of this process, whichever library has them."""
    protect(environment_secrets(environment))
    if getattr(logging.getLogRecordFactory(), "redacts", False):
        return
    make_record = logging.getLogRecordFactory()
    formatter = logging.Formatter()

    def record_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        with suppress(Exception):  # arguments that do not fit are reported by the handler
            message = record.getMessage()
            if (without := redacted(message)) != message:
                record.msg, record.args = without, None
        if record.exc_info and record.exc_info[0]:
            record.exc_text = redacted(formatter.formatException(record.exc_info))
        return record

    record_factory.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record_factory)
    sys.excepthook = _print_exception
    threading.excepthook = lambda uncaught: _print_exception(
        uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback
    )


def _print_exception(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    if not issubclass(kind, SystemExit):
        sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
