"""Which proxy applies to an address, and what NO_PROXY excludes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.proxies import is_excluded, proxy_for
from penstock.errors import ConfigurationError

API = "https://api.example.com"
PORT = 443


@pytest.mark.parametrize(
    ("address", "proxies", "expected"),
    [
        (API, {}, None),
        (API, {"https": "http://p:1"}, ("http://p:1", "HTTPS_PROXY")),
        (API, {"http": "http://p:1"}, None),
        (API, {"all": "p:1"}, ("http://p:1", "ALL_PROXY")),
        (API, {"all": "http://a", "https": "http://s"}, ("http://s", "HTTPS_PROXY")),
        ("http://127.0.0.1:8000", {"http": "http://p"}, ("http://p", "HTTP_PROXY")),
        (API, {"https": " ", "all": "socks5h://u:secret@p"}, ("socks5h://u:secret@p", "ALL_PROXY")),
        (API, {"https": "http://p", "no": "localhost, .example.com"}, None),
        ("http://[fd00::5]:80", {"http": "http://p", "no": "fd00::/8"}, None),
    ],
)
def test_the_proxy_of_the_addresses_scheme_comes_before_all_proxy(
    address: str, proxies: dict[str, str], expected: tuple[str, str] | None
) -> None:
    assert proxy_for(address, proxies) == expected


@pytest.mark.parametrize(
    "value", ["ftp://p", "socks4://p", "http://", "http://p:port", "http://[::1", "://p"]
)
def test_an_unusable_proxy_is_named_by_its_variable_and_not_quoted(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^HTTPS_PROXY: ") as raised:
        proxy_for(API, {"https": value.replace("://", "://user:secret@")})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "host", "excluded"),
    [
        ("*", "anything", True),
        ("example.com", "example.com", True),
        ("example.com", "api.example.com", True),
        (".example.com", "example.com", True),
        ("*.example.com", "api.example.com", True),
        ("example.com", "badexample.com", False),
        ("EXAMPLE.com.", "api.example.COM", True),
        ("api.example.com", "example.com", False),
        ("https://example.com", "example.com", True),
        ("example.com:443", "example.com", True),
        ("example.com:8443", "example.com", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[0:0::1]:443", "::1", True),
        ("[::1]:80", "::1", False),
        ("fd00::/8", "fd12:3456::7", True),
        ("[fd00::]/8", "fd12:3456::7", True),
        ("fd00::/8", "fe80::1", False),
        ("fd00::/8", "10.0.0.1", False),
        ("10.0.0.0/8", "10.200.3.4", True),
        ("10.0.0.1/8", "10.200.3.4", True),
        ("10.0.0.0/8", "api.example.com", False),
        ("0.0.1", "10.0.0.1", False),
        ("10.0.0.1:443", "10.0.0.1", True),
    ],
)
def test_an_entry_of_no_proxy_excludes(entry: str, host: str, excluded: bool) -> None:
    assert is_excluded(host, PORT, f"other, {entry} ,") is excluded


@pytest.mark.parametrize("entry", ["", " ", ".", "[", "]:", "fd00::/200", "/", "10.0.0.0/x", "::"])
def test_an_unreadable_entry_of_no_proxy_is_ignored(entry: str) -> None:
    assert not is_excluded("api.example.com", PORT, entry)
    assert is_excluded("api.example.com", PORT, f"{entry},api.example.com")


@given(
    st.text(st.characters(codec="ascii"), max_size=30), st.sampled_from(["a.b", "::1", "1.2.3.4"])
)
def test_no_text_in_no_proxy_raises(entries: str, host: str) -> None:
    assert is_excluded(host, PORT, entries) in (True, False)


@given(st.ip_addresses(), st.integers(0, 128))
def test_every_network_excludes_its_own_addresses(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    network = ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
    assert is_excluded(str(address), PORT, f"localhost,{network}")


def test_an_address_of_another_scheme_is_left_to_the_http_client() -> None:
    assert proxy_for("ftp://api.example.com", {"https": "http://proxy", "no": "other"}) is None
