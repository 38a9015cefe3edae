"""Redirects: neither the key nor the prompt follows one to another origin."""

import anthropic
import httpx2
import pytest

from config.http_clients import RedirectRefused, refuse_other_origin, settings_fault
from tasks.api.client import problem_of
from tests.contract.config.raw_server import raw_server, response
from tests.contract.config.test_http_clients import Call, both_clients, clean_environment

__all__ = ["clean_environment"]


@both_clients
@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("login", ["", "me:planted@"])
def test_nothing_is_sent_to_another_origin(call: Call, login: str, status: int) -> None:
    with raw_server() as gateway, raw_server() as other:
        location = other.address.replace("//", f"//{login}") + "/login?key=planted"
        gateway.answer = lambda _head: response(status, f"location: {location}")
        with pytest.raises(anthropic.APIConnectionError) as raised:
            call(gateway.address)
        assert other.heads == []
        assert len(gateway.heads) == 1
        problem = problem_of(raised.value)
        assert f"redirects to {other.address}/login, which must not get" in problem.message
        assert "ANTHROPIC_BASE_URL" in problem.message
        assert "planted" not in problem.message
        assert settings_fault(raised.value)
        assert not problem.sent
        assert not problem.retryable


@both_clients
def test_a_redirect_on_the_same_origin_is_followed_with_the_key(call: Call) -> None:
    with raw_server() as gateway:
        gateway.answer = lambda head: (
            response(404) if head.startswith("GET /moved ") else response(307, "location: /moved")
        )
        with pytest.raises(anthropic.NotFoundError):
            call(gateway.address)
        assert len(gateway.heads) == 2
        assert any(line.endswith((": k", "Bearer k")) for line in gateway.heads[1].splitlines())


@pytest.mark.parametrize(
    ("here", "location", "followed"),
    [
        ("http://h/v1", "https://h/v1", True),
        ("http://h/v1", "//h/v1", True),
        ("http://h/v1", "https://h:8443/v1", False),
        ("http://h:8000/v1", "https://h/v1", False),
        ("https://h/v1", "http://h/v1", False),
        ("https://h/v1", "https://h.example/v1", False),
        ("https://h/v1", "https://h:8443/v1", False),
        ("https://h/v1", "https://h@other/v1", False),
        ("https://h/v1", "https://h:443/v2", True),
        ("https://h/v1", "HTTPS://H/v2", True),
        ("https://h/v1", "http://[", False),
    ],
)
def test_only_the_same_origin_and_the_upgrade_to_https_are_followed(
    here: str, location: str, followed: bool
) -> None:
    request = httpx2.Request("POST", here)
    redirect = httpx2.Response(308, headers={"location": location}, request=request)
    if followed:
        refuse_other_origin(redirect)
    else:
        with pytest.raises(RedirectRefused):
            refuse_other_origin(redirect)
