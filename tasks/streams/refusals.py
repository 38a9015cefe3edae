"""What follows when the API refuses a call for now: the request waits in the queue."""

from typing import Final, NoReturn

from config.settings import WorkerSettings
from penstock.jitter import jitter
from penstock.store.availability import retry_until_available
from penstock.store.connection import AsyncConnection
from tasks.api.client import ApiProblem
from tasks.api.retry import wait_s
from tasks.retry import Deferred
from tasks.streams.claim import ClaimedRequest
from tasks.streams.result import RequestFailed, error_after_retries

#: Errors with which the API refuses a call after status 200, as the first event or as the whole
#: body, and the status that stands for each of them otherwise.
REFUSALS_IN_STREAM: Final = {"rate_limit_error": 429, "overloaded_error": 529}


async def defer_refused(
    connection: AsyncConnection,
    settings: WorkerSettings,
    request: ClaimedRequest,
    problem: ApiProblem,
) -> NoReturn:
    """Count a refusal of a call. Raises `Deferred`, or `RequestFailed` after the last one."""
    counted = await retry_until_available(
        lambda: connection.hincrby(request.outbox.keys.meta, "api_retries", 1)
    )
    refusals = int(counted)
    if refusals >= settings.max_api_retries:
        raise RequestFailed(error_after_retries(problem, refusals))
    wait = wait_s(refusals, problem.retry_after, settings.api_retry_max_wait_s, jitter())
    raise Deferred(str(problem), wait)
