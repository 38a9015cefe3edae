"""The SDK's errors as plain data: what is retryable, was sent, and may be logged."""

from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from config.settings import WorkerSettings
from tasks.api.client import ApiProblem, UnexpectedResponse, async_client, problem_of, sync_client

Handler = Callable[[httpx2.Request], httpx2.Response]
SECRET = "xyzzy-the-secret"


def error_of(handler: Handler) -> Exception:
    http = httpx2.Client(transport=httpx2.MockTransport(handler))
    with (
        anthropic.Anthropic(api_key="k", http_client=http, max_retries=0) as api,
        pytest.raises(anthropic.APIError) as caught,
    ):
        api.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    return caught.value


def refused(status: int, headers: dict[str, str] | None = None, **error: Any) -> ApiProblem:
    body = {"type": "error", "error": error, "request_id": "req_1"}
    return problem_of(error_of(lambda _: httpx2.Response(status, json=body, headers=headers or {})))


def failing(error: Exception) -> ApiProblem:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    return problem_of(error_of(handler))


def test_a_refusal_keeps_the_apis_message_and_request_id() -> None:
    problem = refused(
        400, {"request-id": "req_9"}, type="invalid_request_error", message="max_tokens: too many"
    )
    assert problem.as_error() == {
        "type": "invalid_request_error",
        "message": "max_tokens: too many",
        "status": 400,
        "request_id": "req_9",
    }
    assert not problem.retryable
    assert problem.sent


@pytest.mark.parametrize(
    ("status", "retryable"), [(429, True), (529, True), (500, True), (401, False)]
)
def test_the_status_decides_whether_a_refusal_is_retryable(status: int, retryable: bool) -> None:
    assert refused(status, type="x", message="y").retryable is retryable


def test_the_retry_after_of_a_refusal_is_kept() -> None:
    assert refused(429, {"retry-after": "7"}, type="rate_limit_error", message="x").retry_after == 7
    assert refused(429, type="rate_limit_error", message="x").retry_after is None


def test_x_should_retry_overrides_the_status() -> None:
    assert not refused(529, {"x-should-retry": "false"}, type="x", message="y").retryable


@pytest.mark.parametrize("content", [b"", b"<html>Bad gateway</html>", b"null", b"[]", b'"x"'])
def test_a_refusal_by_a_gateway_becomes_an_api_problem(content: bytes) -> None:
    problem = problem_of(error_of(lambda _: httpx2.Response(502, content=content)))
    assert (problem.type, problem.status, problem.retryable) == ("api_error", 502, True)
    assert problem.message


@pytest.mark.parametrize("status", [400, 429])
@pytest.mark.parametrize("odd", [7, ["x"], {"a": 1}, True, "x" * 3_000_000, 10**30, [[[]]]])
def test_a_refusal_with_odd_fields_has_a_short_text_type_and_message(status: int, odd: Any) -> None:
    for problem in (refused(status, type=odd, message="m"), refused(status, type="t", message=odd)):
        error = problem.as_error()
        assert isinstance(error["type"], str)
        assert isinstance(error["message"], str)
        assert 0 < len(error["type"]) + len(error["message"]) < 3_000
        assert str(problem)


def test_a_404_names_the_address_that_was_called() -> None:
    problem = refused(404, type="not_found_error", message="Not Found")
    assert problem.message == "Not Found (from https://api.anthropic.com/v1/messages)"
    page = problem_of(error_of(lambda _: httpx2.Response(404, content=b"<html>")))
    assert page.message == "HTTP 404 from https://api.anthropic.com/v1/messages: <html>"


def test_the_logged_form_of_a_problem_does_not_quote_the_api() -> None:
    """The API's message may quote the request."""
    problem = refused(400, {"request-id": "req_9"}, type="invalid_request_error", message=SECRET)
    assert str(problem) == "invalid_request_error (HTTP 400), request req_9"


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (httpx2.ConnectError("refused"), False),
        (httpx2.ConnectTimeout("slow"), False),
        (httpx2.PoolTimeout("full"), False),
        (httpx2.ReadTimeout("slow"), True),
        (httpx2.WriteTimeout("slow"), True),
        (httpx2.ReadError("cut"), True),
        (httpx2.RemoteProtocolError("cut"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_call_counts_as_unsent_only_if_no_connection_was_made(
    error: Exception, sent: bool
) -> None:
    problem = failing(error)
    assert problem.sent is sent
    assert problem.retryable
    assert problem.status == 0
    assert type(error).__name__ in problem.message
    assert problem.as_error() == {"type": "connection_error", "message": problem.message}


def test_an_unexpected_error_counts_as_sent_and_not_retryable() -> None:
    problem = problem_of(ValueError("odd"))
    assert problem.sent
    assert not problem.retryable


def test_an_unexpected_response_is_retryable() -> None:
    assert problem_of(UnexpectedResponse("odd")).retryable
    assert problem_of(httpx2.ReadError("cut")).retryable


def test_missing_credentials_are_not_retryable() -> None:
    problem = problem_of(anthropic.CredentialsError("no such profile"))
    assert (problem.type, problem.retryable) == ("authentication_error", False)
    assert "no such profile" in problem.message


async def closed(client: anthropic.AsyncAnthropic) -> int:
    await client.close()
    return client.max_retries


def test_the_sdk_never_retries_a_call_by_itself() -> None:
    """A batch that is created twice is billed twice."""
    import asyncio

    settings = WorkerSettings.load(anthropic_api_key="k", anthropic_base_url="http://127.0.0.1:1")
    with sync_client(settings) as api:
        assert api.max_retries == 0
        assert str(api.base_url).startswith("http://127.0.0.1:1")
        assert api.api_key == "k"

    async def both() -> int:
        return await closed(async_client(settings))

    assert asyncio.run(both()) == 0
