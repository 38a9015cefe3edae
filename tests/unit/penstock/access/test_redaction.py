"""Secrets are removed from texts, in every form in which they appear there."""

import base64
import json
import logging
import subprocess
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.access.redaction import (
    REDACTED,
    Redactor,
    environment_secrets,
    error_words,
    login_secrets,
    protect,
    redact_exception,
    redacted_beginning,
    shown_url,
)

#: Characters that URLs, JSON, Python or HTML write in another way.
PASSWORDS = st.text(st.sampled_from("abcXYZ019 @:/?#%&+\"'\\<>é\n\x00€"), min_size=6, max_size=24)


@given(PASSWORDS, st.text(max_size=10), st.text(max_size=10))
def test_a_secret_is_removed_in_each_form(password: str, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.add([password, *login_secrets("me", password)])
    forms = [
        password,
        quote(password, safe=""),
        json.dumps(password)[1:-1],
        repr(password)[1:-1],
        repr(password.encode())[2:-1],
        base64.b64encode(f"me:{password}".encode()).decode(),
    ]
    for form in forms:
        assert form not in redactor.redact(f"«{form}»")
        assert REDACTED in redactor.redact(f"{before}«{form}»{after}")


def test_short_words_and_the_simulators_keys_are_not_secrets() -> None:
    redactor = Redactor()
    redactor.add(["any", "", "simulated", "simulated-key"])
    text = "any simulated-streams with simulated-key"
    assert redactor.redact(text) == text


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "planted-aws", "planted-aws"),
        ("FSSPEC_S3", '{"key": "k", "secret": "planted-s3"}', "planted-s3"),
        ("FSSPEC_FTP_PASSWORD", "planted-ftp", "planted-ftp"),
        ("HTTPS_PROXY", "http://me:planted-proxy@p:1", "planted-proxy"),
        ("https_proxy", "http://me:pl@nted/pro#xy@p:1", "pl@nted/pro#xy"),
        ("ANTHROPIC_CUSTOM_HEADERS", "x-a: b\nx-gate: Bearer planted-gate", "planted-gate"),
        ("ANTHROPIC_AUTH_TOKEN", "planted-token\n", "planted-token"),
        ("FLOWER_BASIC_AUTH", "me:planted-flower", "planted-flower"),
    ],
)
def test_secrets_in_environment_variables_are_found(name: str, value: str, secret: str) -> None:
    assert secret in list(environment_secrets({name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PENSTOCK_KEY_PREFIX", "penstock"),
        ("SSH_AUTH_SOCK", "/run/agent.1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("LANG", "C.UTF-8"),
        ("PENSTOCK_REDIS_URL", "redis://127.0.0.1:6379/0"),
    ],
)
def test_ordinary_variables_are_not_secrets(name: str, value: str) -> None:
    assert list(environment_secrets({name: value})) == []


@pytest.mark.parametrize(
    "text",
    [
        "illegal header line: bytearray(b'set-cookie: id=planted')",
        "400, message:\n  Invalid header value char:\n\n    b'X-Key: planted\\x00'\n      ^",
        'Invalid port: "planted@host"',
        "Illegal header value b'planted\\n'",
        "Bad status line 'it\\'s planted'",
        "cut off: b'planted",
    ],
)
def test_what_an_error_of_a_transport_quotes_is_left_out(text: str) -> None:
    words = error_words(ValueError(text))
    assert "planted" not in words
    assert words.startswith("ValueError: ")


def test_an_error_of_a_transport_keeps_its_own_words() -> None:
    assert error_words(OSError("can't connect to host")) == "OSError: can't connect to host"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a:b@h:1/x?key=planted#f", "https://h:1/x"),
        ("http://me:p/planted@h", "http://…"),
        ("http://me:1/planted@h", "http://…"),
        ("http://me:#planted@h", "http://…"),
        ("http://[::1]:80/v", "http://[::1]:80/v"),
        ("planted", "://…"),
        ("", "://…"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_a_secret_at_the_cut_of_a_text_leaves_no_part() -> None:
    protect(["planted-at-the-cut"])
    shown = redacted_beginning("x" * 90 + "planted-at-the-cut", 100)
    assert "plant" not in shown
    assert len(shown) == 100


def test_an_exception_and_its_causes_lose_their_secrets() -> None:
    protect(["planted-cause"])
    cause = OSError("AUTH planted-cause")
    error = ValueError("no planted-cause")
    error.__cause__ = cause
    redact_exception(error)
    assert str(error) == f"no {REDACTED}"
    assert str(cause) == f"AUTH {REDACTED}"


PROCESS = """
import logging, os, sys, threading
from penstock.access.redaction import redact_process
redact_process(os.environ)
logging.basicConfig()
secret = os.environ["GATEWAY_TOKEN"]
logging.getLogger("x").warning("one %s", secret)
logging.getLogger("x").warning("bad %s %s", secret)
try:
    raise ValueError(secret)
except ValueError:
    logging.getLogger("other").exception("two")
def fail():
    raise ValueError(secret)
thread = threading.Thread(target=fail); thread.start(); thread.join()
raise RuntimeError("three") from ValueError(secret)
"""


def test_logs_and_uncaught_exceptions_of_a_process_have_no_secret() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        capture_output=True,
        text=True,
        check=False,
        env={"GATEWAY_TOKEN": "planted-token", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 1
    assert done.stderr.count(f"ValueError: {REDACTED}") == 3
    assert f"one {REDACTED}" in done.stderr
    assert "RuntimeError: three" in done.stderr
    assert "planted-token" not in done.stderr.replace("Arguments: ('planted-token',)", "")


def test_a_record_of_a_log_without_secrets_keeps_its_arguments() -> None:
    record = logging.getLogRecordFactory()("x", 20, "f", 1, "%s", ("plain",), None)
    assert record.getMessage() == "plain"
