"""What follows when the API refuses a call for now: the request waits in the queue."""

from config.settings import WorkerSettings
from penstock.jitter import jitter
from tasks.api.client import ApiProblem
from tasks.api.retry import wait_s
from tasks.retry import Deferred
from tasks.streams.claim import ClaimedRequest
from tasks.streams.result import RequestFailed, error_after_retries


def refused(
    settings: WorkerSettings, request: ClaimedRequest, problem: ApiProblem
) -> Deferred | RequestFailed:
    """Count a refusal of a call; returns the signal to raise, `RequestFailed` after the last."""
    refusals = request.count_refusal()
    if refusals >= settings.max_api_retries:
        return RequestFailed(error_after_retries(problem, refusals))
    wait = wait_s(refusals, problem.retry_after, settings.api_retry_max_wait_s, jitter())
    return Deferred(str(problem), wait)
