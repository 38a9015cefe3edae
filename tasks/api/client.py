"""The Anthropic SDK without its own retries, and its errors as plain data.

By default the SDK retries a refused call and sleeps in the worker for as long as retry-after says.
It also repeats a batch create whose response was lost, and the batch is then billed twice. Both
decisions are ours, so ``max_retries`` is 0 everywhere.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import anthropic
import httpx2

from config.http_clients import (
    MAX_REDIRECTS,
    RedirectRefused,
    async_http_client,
    sync_http_client,
)
from config.settings import WorkerSettings
from penstock.access.redaction import error_words, redact_exception, redacted
from tasks.api.excerpt import error_text, excerpt
from tasks.api.retry import is_retryable, retry_after_s

#: Statuses with which a gateway reports that the API received the call and gave no answer in time.
_NO_ANSWER: Final = frozenset({504, 524})


class UnexpectedResponse(Exception):
    """The response has a status of success, but not the form of the API's responses."""


@dataclass(frozen=True, slots=True)
class ApiProblem:
    """Why a call failed."""

    type: str  #: the API's error type, or one of ours if there was no response
    message: str  #: the API's message; may quote the request, so it is recorded but never logged
    status: int = 0  #: HTTP status; 0 if there was no response
    request_id: str = ""  #: the API's id of the call, to give to its support
    retryable: bool = False  #: whether the same call may succeed later
    retry_after: float | None = None  #: seconds that the API asks to wait
    sent: bool = True  #: whether the API may have received the call
    timed_out: bool = False  #: it was sent, and no response began in time
    unreadable: bool = False  #: a response began, and its headers could not be read

    @property
    def unanswered(self) -> bool:
        """Whether the API may have received and billed the call, but gave no response."""
        if self.status:
            return self.status in _NO_ANSWER
        return self.sent and self.type == "connection_error"

    def as_error(self) -> dict[str, Any]:
        """Return the error object for the record and the last event."""
        error: dict[str, Any] = {"type": self.type, "message": self.message}
        if self.status:
            error["status"] = self.status
        if self.request_id:
            error["request_id"] = self.request_id
        return error

    def __str__(self) -> str:
        if not self.status:
            return f"{self.type}: {self.message}"  # our own message, which quotes nothing
        where = f" (HTTP {self.status})"
        return f"{self.type}{where}" + (f", request {self.request_id}" if self.request_id else "")


def problem_of(error: Exception) -> ApiProblem:
    """Turn an exception of the SDK or its transport into plain data.

    Neither the result nor the exception, which may be logged, has a secret in it.
    """
    redact_exception(error)
    if isinstance(error, anthropic.APIStatusError):
        headers = error.response.headers
        return ApiProblem(
            type=_type(error),
            message=_message(error),
            status=error.status_code,
            request_id=error_text(error.request_id or ""),
            retryable=is_retryable(
                error.status_code, error.error_code, headers.get("x-should-retry")
            ),
            retry_after=retry_after_s(headers),
        )
    if isinstance(error, anthropic.APIConnectionError):
        cause = error.__cause__ or error
        return _connection_problem(cause, _address(error))
    if isinstance(error, UnexpectedResponse):
        return ApiProblem("unexpected_response", redacted(str(error)), retryable=True)
    if isinstance(
        error, anthropic.AnthropicError
    ):  # the SDK has no credentials, so it made no call
        words = f"no credentials for the API: {error_words(error)}"
        return ApiProblem(type="authentication_error", message=words)
    retryable = isinstance(error, httpx2.HTTPError)  # while the response was read
    return ApiProblem(type="connection_error", message=error_words(error), retryable=retryable)


def _type(error: anthropic.APIStatusError) -> str:
    kind: Any = error.type  # of a gateway, it may be anything
    return error_text(kind) if kind and isinstance(kind, str) else "api_error"


def _message(error: anthropic.APIStatusError) -> str:
    """Return the API's message. It names the address where that may be the cause."""
    address = f"{_address(error)}{error.request.url.path}"
    if not error.api_message:  # the response is not the API's own
        shown = excerpt(error.response.content)
        return f"HTTP {error.status_code} from {address}" + (f": {shown}" if shown else "")
    message = error_text(error.api_message)
    if error.status_code == HTTPStatus.NOT_FOUND:  # no such model, or no such address
        return f"{message} (from {address})"
    return message


def _address(error: anthropic.APIError) -> str:
    """Return the address of the call that failed, without user and password."""
    url = error.request.url
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}"


def _connection_problem(cause: BaseException, address: str) -> ApiProblem:
    if isinstance(cause, RedirectRefused):
        message = f"the API at {address} {cause}"
        return ApiProblem(type="connection_error", message=message, sent=False)
    if isinstance(cause, httpx2.TooManyRedirects | httpx2.UnsupportedProtocol):
        redirects = isinstance(cause, httpx2.TooManyRedirects)
        what = f"redirects more than {MAX_REDIRECTS} times" if redirects else "is no HTTP address"
        message = f"the API at {address} {what} ({error_words(cause)}); correct ANTHROPIC_BASE_URL"
        return ApiProblem(type="connection_error", message=message, sent=False)
    if isinstance(cause, aiohttp.ClientResponseError):
        said = excerpt(error_words(ValueError(cause.message)).partition(": ")[2])
        message = f"the API at {address} sent a response that is not HTTP: {said}"
        return ApiProblem(type="connection_error", message=message, retryable=True, unreadable=True)
    sent = _is_sent(cause)
    outcome = "gave no response" if sent else "cannot be reached"
    return ApiProblem(
        type="connection_error",
        message=error_text(f"the API at {address} {outcome}: {error_words(cause)}"),
        retryable=True,
        sent=sent,
        timed_out=sent and isinstance(cause, httpx2.ReadTimeout),
    )


def _is_sent(cause: BaseException) -> bool:
    """Whether the API may have received a call that ended in this error of the transport."""
    if isinstance(cause, httpx2.ConnectError) and isinstance(
        cause.__cause__, aiohttp.ClientConnectionError
    ):
        # The SDK's aiohttp transport reports every lost connection as a failure to connect.
        return not isinstance(cause.__cause__, aiohttp.ClientConnectorError)
    unsent = (
        httpx2.ConnectError,
        httpx2.ConnectTimeout,
        httpx2.PoolTimeout,
        httpx2.ProxyError,
        httpx2.UnsupportedProtocol,
        httpx2.LocalProtocolError,
    )
    return not isinstance(cause, unsent)


def lacks_credentials(api: anthropic.Anthropic) -> bool:
    """Whether there are no credentials. A call would then raise a plain `TypeError`."""
    return api.api_key is None and api.auth_token is None and api.credentials is None


def _credentials(settings: WorkerSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"max_retries": 0}
    if settings.anthropic_api_key is not None:
        options["api_key"] = settings.anthropic_api_key.get_secret_value()
    elif settings.anthropic_auth_token is not None:
        options["auth_token"] = settings.anthropic_auth_token.get_secret_value()
    if settings.anthropic_base_url is not None:
        options["base_url"] = settings.anthropic_base_url
    return options


def idle_timeout(settings: WorkerSettings) -> httpx2.Timeout:
    """Return the timeouts of a call with a small body: it may be silent as long as a stream."""
    return httpx2.Timeout(settings.stream_idle_timeout_s, connect=settings.connect_timeout_s)


def async_client(settings: WorkerSettings) -> anthropic.AsyncAnthropic:
    """Return the client for streams.

    The read timeout bounds the silence on a stream. Raises `penstock.errors.ConfigurationError`.
    """
    timeout = idle_timeout(settings)
    # Above the number of streams of a process: by default aiohttp opens at most 100 connections and
    # lets all further streams wait without an error.
    limits = httpx2.Limits(
        max_connections=2 * settings.streams_concurrency, max_keepalive_connections=100
    )
    return anthropic.AsyncAnthropic(
        timeout=timeout,
        http_client=async_http_client(settings, timeout, limits),
        **_credentials(settings),
    )


def sync_client(settings: WorkerSettings) -> anthropic.Anthropic:
    """Return the client for batches. Raises `penstock.errors.ConfigurationError`."""
    timeout = httpx2.Timeout(settings.upload_timeout_s, connect=settings.connect_timeout_s)
    return anthropic.Anthropic(
        timeout=timeout,
        http_client=sync_http_client(settings, timeout),
        **_credentials(settings),
    )
