"""Credentials: what surrounds them is removed, and what no header can carry is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import WorkerSettings
from penstock.access.credentials import custom_headers_problem, header_problem
from penstock.errors import ConfigurationError

VARIABLES = ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("wrapped", ["{}\n", "{}\r\n", " {}\t", '"{}"', "'{}'\n", "\u00a0{}"])
def test_what_surrounds_a_key_is_removed(
    monkeypatch: pytest.MonkeyPatch, variable: str, wrapped: str
) -> None:
    monkeypatch.setenv(variable, wrapped.format("sk-ant-planted"))
    settings = WorkerSettings.load()
    value = settings.anthropic_api_key or settings.anthropic_auth_token
    assert value is not None
    assert value.get_secret_value() == "sk-ant-planted"


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize(
    "key",
    ["sk\nplanted", "planted\rx", "planted\x00"[:7] + "\x01", "plantéd", "pla\u2014nted", "\n"],
)
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, key: str
) -> None:
    monkeypatch.setenv(variable, key)
    with pytest.raises(ConfigurationError) as caught:
        WorkerSettings.load()
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert "planted" not in message
    assert "\n" not in message


@given(st.text())
def test_a_value_without_a_problem_is_a_header(value: str) -> None:
    assert (header_problem(value) == "") is all(" " <= character <= "~" for character in value)


@pytest.mark.parametrize(
    "lines", ["planted", "x: plan\u2014ted", "x: pl\x01anted", "a b: planted", ": planted"]
)
def test_custom_headers_that_cannot_be_sent_are_refused_by_line(lines: str) -> None:
    with pytest.raises(ConfigurationError, match="ANTHROPIC_CUSTOM_HEADERS: line 2 ") as caught:
        WorkerSettings.load(anthropic_custom_headers=f"x-ok: 1\n{lines}")
    assert "planted" not in str(caught.value)


def test_custom_headers_may_end_in_a_line_break() -> None:
    assert custom_headers_problem("x-a: b\r\nx-c: d:e\n\n") == ""


@pytest.mark.parametrize(
    "url", ["http://me:p/planted@h", "http://h?key=planted", "http://h/#planted"]
)
def test_a_base_url_that_may_show_its_password_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ANTHROPIC_BASE_URL") as caught:
        WorkerSettings.load(anthropic_base_url=url)
    assert "planted" not in str(caught.value)


def test_the_repr_of_settings_has_no_password() -> None:
    settings = WorkerSettings.load(
        anthropic_base_url="http://me:planted@h", redis_url="redis://:planted@h/0"
    )
    assert "planted" not in repr(settings)
