"""Recognizes connections to Redis that fail because of TLS, which no waiting repairs."""

import re
import ssl
from typing import Final

from penstock.access.redis_url import RedisUrl

#: OpenSSL's numbers for what is wrong with a certificate (`X509_V_ERR_…`).
_CERTIFICATE: Final = {
    9: "is not yet valid",
    10: "has expired",
    18: "is signed by itself",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted",
    21: "is signed by an authority that is not trusted",
    62: "is for another host name",
    64: "is for another IP address",
}
_UNTRUSTED: Final = frozenset({18, 19, 20, 21})
#: The first byte of a TLS alert or handshake, as the driver quotes it.
_TLS_BYTES: Final = ("\\x15", "\x15", "\\x16", "\x16")
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})


def tls_problem(error: BaseException) -> str:
    """Return why TLS failed and what to do, in one clause; empty if ``error`` has another cause."""
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return _certificate_problem(each)
        if isinstance(each, ssl.SSLError):
            return _protocol_problem(each)
    text = str(error)
    if "Protocol" in text and any(byte in text for byte in _TLS_BYTES):
        return "the server speaks TLS: write rediss:// instead of redis://"
    return ""


def tls_question(url: RedisUrl, error: BaseException) -> str:
    """Return the question of whether TLS is the cause of an error that does not say so."""
    if url.scheme == "rediss" and re.search("timed? ?out", str(error), re.IGNORECASE):
        return " Does it speak TLS on this port? If not, write redis://."
    if url.scheme == "redis" and re.search("closed|reset", str(error), re.IGNORECASE):
        return " Does it speak TLS on this port? Then write rediss://."
    return ""


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    what = _CERTIFICATE.get(error.verify_code, f"was rejected ({error.verify_message})")
    advice = (
        "name the authority with ?ssl_ca_certs=/path/ca.pem"
        if error.verify_code in _UNTRUSTED
        else "correct the certificate, or the host in the URL"
    )
    return f"the server's certificate {what}: {advice}"


def _protocol_problem(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason in _NOT_TLS:
        return "the server does not speak TLS on this port: use its TLS port, or redis://"
    if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason:
        return "the server asks for a client certificate: name it with ssl_certfile and ssl_keyfile"
    return f"TLS failed ({reason or type(error).__name__})"
