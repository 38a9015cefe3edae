"""The Anthropic SDK as we use it: no retries of its own, and its errors as plain data.

The SDK repeats a refused call by itself, sleeping in the worker for as long as retry-after says,
and posts a batch create again after a lost answer, which buys the batch twice. Both decisions
are ours, so ``max_retries`` is 0 everywhere.
"""

from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2

from config.settings import WorkerSettings
from tasks.api.retry import is_retryable, retry_after_s


class UnexpectedResponse(Exception):
    """The answer is not what the API gives, though its status says that all is well."""


@dataclass(frozen=True, slots=True)
class ApiProblem:
    """Why a call got no answer."""

    type: str  #: the API's error type, or ours where the API said nothing
    message: str  #: the API's words; may quote the request, so it goes into records, not logs
    status: int = 0  #: HTTP status; 0 where there was no response
    request_id: str = ""  #: the API's id of the call, for its support
    retryable: bool = False  #: whether the same call may succeed later
    retry_after: float | None = None  #: seconds the API asks to wait
    sent: bool = True  #: whether the API may have received the call

    def as_error(self) -> dict[str, Any]:
        """The error object for a record and an end event."""
        error: dict[str, Any] = {"type": self.type, "message": self.message}
        if self.status:
            error["status"] = self.status
        if self.request_id:
            error["request_id"] = self.request_id
        return error

    def __str__(self) -> str:
        if not self.status:
            return f"{self.type}: {self.message}"  # ours: quotes nothing
        where = f" (HTTP {self.status})"
        return f"{self.type}{where}" + (f", request {self.request_id}" if self.request_id else "")


def problem_of(error: Exception) -> ApiProblem:
    """An exception of the SDK or its transport as plain data."""
    if isinstance(error, anthropic.APIStatusError):
        headers = error.response.headers
        return ApiProblem(
            type=error.type or "api_error",
            message=error.api_message or f"HTTP {error.status_code}",
            status=error.status_code,
            request_id=error.request_id or "",
            retryable=is_retryable(
                error.status_code, error.error_code, headers.get("x-should-retry")
            ),
            retry_after=retry_after_s(headers),
        )
    if isinstance(error, anthropic.APIConnectionError):
        cause = error.__cause__ or error
        unsent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
        return ApiProblem(
            type="connection_error",
            message=f"the API cannot be reached: {type(cause).__name__}: {cause}",
            retryable=True,
            sent=not isinstance(cause, unsent),
        )
    if isinstance(error, UnexpectedResponse):
        return ApiProblem(type="unexpected_response", message=str(error), retryable=True)
    if isinstance(error, anthropic.AnthropicError):  # no answer: the SDK has nothing to call with
        words = f"no credentials for the API: {type(error).__name__}: {error}"
        return ApiProblem(type="authentication_error", message=words)
    retryable = isinstance(error, httpx2.HTTPError)  # while an answer was read
    return ApiProblem(
        type="connection_error", message=f"{type(error).__name__}: {error}", retryable=retryable
    )


def lacks_credentials(api: anthropic.Anthropic) -> bool:
    """Whether no call can be made, for want of a key. The SDK raises a plain `TypeError` then."""
    return api.api_key is None and api.auth_token is None and api.credentials is None


def _credentials(settings: WorkerSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"max_retries": 0}
    if settings.anthropic_api_key is not None:
        options["api_key"] = settings.anthropic_api_key.get_secret_value()
    if settings.anthropic_base_url is not None:
        options["base_url"] = settings.anthropic_base_url
    return options


def idle_timeout(settings: WorkerSettings) -> httpx2.Timeout:
    """The timeouts of a call that sends little: the longest silence is that of a stream."""
    return httpx2.Timeout(settings.stream_idle_timeout_s, connect=settings.connect_timeout_s)


def async_client(settings: WorkerSettings) -> anthropic.AsyncAnthropic:
    """The client of the stream loop. aiohttp reads a chunk at about half the CPU of the default
    transport; the read timeout is what bounds silence on a stream."""
    timeout = idle_timeout(settings)
    # A number, and above what a process carries: without one aiohttp stops at 100 connections, and
    # the streams beyond wait for one without a word.
    limits = httpx2.Limits(
        max_connections=2 * settings.streams_concurrency, max_keepalive_connections=100
    )
    return anthropic.AsyncAnthropic(
        timeout=timeout,
        http_client=anthropic.DefaultAioHttpClient(timeout=timeout, limits=limits),
        **_credentials(settings),
    )


def sync_client(settings: WorkerSettings) -> anthropic.Anthropic:
    """The client of the batch steps."""
    timeout = httpx2.Timeout(settings.upload_timeout_s, connect=settings.connect_timeout_s)
    return anthropic.Anthropic(timeout=timeout, **_credentials(settings))
