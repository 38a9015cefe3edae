"""The URL of Redis: read once, passed on to the driver and to kombu, or rejected by name."""

from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.transport.redis import Channel
from kombu.utils.url import url_to_parts
from pydantic import SecretStr
from redis.connection import parse_url

from penstock.access.redis_url import RedisUrl
from penstock.errors import ConfigurationError
from penstock.queue.wakeups import broker_settings
from penstock.settings import ClientSettings

SECRET = "hunter2"


def driver_options(url: str) -> dict[str, Any]:
    """What redis-py reads from the URL that it is given."""
    options: dict[str, Any] = parse_url(RedisUrl.parse(url).driver_url)  # type: ignore[no-untyped-call]
    options.pop("connection_class", None)
    return options


def broker_options(url: str) -> dict[str, Any]:
    """What kombu gives to redis-py for the same URL."""
    # Not validated: the files of certificates in these URLs do not exist.
    settings = broker_settings(ClientSettings.model_construct(redis_url=SecretStr(url)))
    with Connection(
        settings["broker_url"],
        ssl=settings["broker_use_ssl"] or False,
        transport_options=settings["broker_transport_options"],
    ) as connection:
        # A channel without its start, which connects to the server.
        channel: Any = object.__new__(Channel)
        channel.connection = SimpleNamespace(client=connection, default_port=6379)
        vars(channel).update(settings["broker_transport_options"])
        options: dict[str, Any] = channel._connparams()
    options.pop("connection_class", None)
    return options


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"host": "h", "db": 0}),
        ("redis://me:pw@h:7000/3", {"host": "h", "port": 7000, "username": "me", "db": 3}),
        ("redis://h/?db=4&client_name=web", {"host": "h", "db": 4, "client_name": "web"}),
        ("redis://h/0?username=me&password=a%25b", {"username": "me", "password": "a%b"}),
        ("redis://:p@ss@h/1", {"password": "p@ss", "host": "h", "db": 1}),
        ("redis://:a%2Fb%23c%40d%25@h", {"password": "a/b#c@d%", "host": "h"}),
        ("redis://[::1]:6380/2", {"host": "::1", "port": 6380, "db": 2}),
        ("unix:///run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2}),
        ("unix://me:pw@/run/a b.sock".replace(" ", "%20"), {"path": "/run/a b.sock"}),
        ("rediss://h?ssl_ca_certs=/a/ca.pem", {"ssl_ca_certs": "/a/ca.pem"}),
        ("rediss://h?ssl_cert_reqs=optional", {"ssl_check_hostname": True}),
        ("rediss://h?ssl_check_hostname=no", {"ssl_check_hostname": False}),
        ("rediss://h?ssl_certfile=c&ssl_keyfile=k&ssl_password=p", {"ssl_password": "p"}),
    ],
)
def test_the_driver_and_kombu_get_the_same_options(url: str, expected: dict[str, Any]) -> None:
    for options in (driver_options(url), broker_options(url)):
        assert {name: options.get(name, 0) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("", 2),
        ("?ssl_cert_reqs=required", 2),
        ("?ssl_cert_reqs=CERT_REQUIRED", 2),
        ("?ssl_cert_reqs=Optional", 1),
        ("?ssl_cert_reqs=none", 0),
        ("?ssl_cert_reqs=CERT_NONE", 0),
    ],
)
def test_one_spelling_of_verification_reaches_the_driver_and_kombu(given: str, kind: int) -> None:
    words = {2: "required", 1: "optional", 0: "none"}
    url = f"rediss://h{given}"
    assert driver_options(url)["ssl_cert_reqs"] == words[kind]
    assert broker_options(url)["ssl_cert_reqs"] == kind
    assert driver_options(url)["ssl_check_hostname"] is (kind > 0)
    assert broker_options(url)["ssl_check_hostname"] is (kind > 0)
    assert RedisUrl.parse(url).is_verified is (kind > 0)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h?socket_timeout=1", "socket_timeout is no option"),
        ("redis://h?socket_timeout=1", "PENSTOCK_REDIS_TIMEOUT_S"),
        ("redis://h?protocol=3", "protocol is no option"),
        ("redis://h?health_check_interval=3", "health_check_interval is no option"),
        ("redis://h?max_connections=3", "max_connections"),
        ("redis://h?virtual_host=1", "virtual_host"),
        ("redis://h?ssl_cert_reqs=none", "ssl_cert_reqs needs TLS"),
        ("unix:///s?ssl_ca_certs=x", "ssl_ca_certs needs TLS"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs must be one of"),
        ("rediss://h?ssl_check_hostname=perhaps", "ssl_check_hostname must be"),
        ("rediss://h?ssl_keyfile=k", "ssl_keyfile needs ssl_certfile"),
        ("rediss://h?ssl_cert_req=none", "ssl_cert_req is no option"),
        ("redis://h?db=1&db=2", "db is given twice"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h/one", "not a number"),
        ("redis://h?db=-1", "not a number"),
        ("redis://h?client_name=", "client_name has no value"),
        ("unix://", "unix:///path"),
        ("unix://h/run/redis.sock", "names a host"),
        ("redis://h\n.example/0", "is not a URL"),
        ("redis://a;redis://b", "is not a URL"),
    ],
)
def test_what_both_halves_cannot_honour_is_rejected_by_name(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_REDIS_URL") as caught:
        ClientSettings.load(redis_url=url)
    assert words in str(caught.value)


@pytest.mark.parametrize("wrapped", ["{}\n", "  {} ", '"{}"', "'{}'\n", '"{}\n"'])
def test_line_breaks_and_quotation_marks_around_a_url_are_removed(wrapped: str) -> None:
    url = "redis://:hunter2@h:1/0"
    assert ClientSettings.load(redis_url=wrapped.format(url)).redis == RedisUrl.parse(url)


@given(
    st.text(st.sampled_from("ab1@#/%?:[];& \\\"'\u00e9"), max_size=6),
    st.text(st.sampled_from("ab1@#/%?:[];&"), max_size=6),
    st.sampled_from(["redis", "rediss", "unix"]),
)
def test_no_message_about_any_url_has_a_part_of_its_password(
    before: str, after: str, scheme: str
) -> None:
    url = f"{scheme}://:{before}{SECRET}{after}{SECRET}@{'/s' if scheme == 'unix' else 'h:1/0'}"
    try:
        parsed = RedisUrl.parse(url)
    except ValueError as error:
        shown = str(error)
    else:
        shown = parsed.address + repr(parsed)
    assert SECRET not in shown


@given(st.text(min_size=1, max_size=20), st.text(max_size=8))
def test_an_escaped_user_and_password_reach_both_halves_unchanged(password: str, user: str) -> None:
    try:
        password.encode()
        user.encode()
    except UnicodeEncodeError:
        return
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    url = RedisUrl.parse(f"redis://{login}@h:1/0")
    assert (url.username, url.password) == (user, password)
    assert driver_options(f"redis://{login}@h:1/0")["password"] == password
    parts = url_to_parts(url.broker_url)
    assert (parts.password, parts.username or "") == (password, user)
