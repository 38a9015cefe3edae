"""Runs the steps of a shard, create → poll → collect → finish, and handles errors of the API.

Each step can run twice without harm: it reads the record first and does only what is missing.
Only the create step spends money. No error of the API ends a job: the call is retried later, or the
job is paused for one clear reason until the operator resumes it.
"""

import contextlib
from dataclasses import replace
from typing import Final

import anthropic
import httpx2
import redis

from config.http_clients import settings_fault
from config.settings import WorkerSettings
from penstock.batches.notices import Alert, PauseReason
from penstock.clock import now_ms
from penstock.errors import ConfigurationError, MissingDependency, SpoolUnavailable
from penstock.jitter import jitter
from penstock.queue import names
from tasks.api.client import ApiProblem, UnexpectedResponse, lacks_credentials, problem_of
from tasks.api.retry import wait_s
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.collect.step import CollectStep
from tasks.batches.create.step import CreateStep
from tasks.batches.finish import FinishStep
from tasks.batches.poll import PollStep
from tasks.batches.step_result import Parked, Redirect, RetryIn, StepResult
from tasks.batches.transient_404 import noted_404

_DAY_MS = 86_400_000

#: Calls in a row that fail because of the workers' proxy or certificates before the job is paused:
#: those of a gateway can be wrong for a minute as well.
_MAX_SETTINGS_FAULTS: Final = 5

_NO_KEY = ApiProblem(type=PauseReason.AUTHENTICATION_ERROR, message="the workers have no API key")

#: Calls in a row that do not reach the API, over some minutes, before they raise an alert.
_UNREACHABLE: Final = 10


class BatchSteps:
    """The steps, with the API they call."""

    def __init__(self, settings: WorkerSettings, api: anthropic.Anthropic) -> None:
        self._settings = settings
        self._api = api
        self._steps = {
            names.BATCH_CREATE: CreateStep(settings, api).run,
            names.BATCH_POLL: PollStep(settings, api).run,
            names.BATCH_COLLECT: CollectStep(settings, api).run,
            names.BATCH_FINISH: FinishStep(settings).run,
        }

    def run(self, name: str, work: ClaimedShard) -> StepResult:
        """Run the step called ``name``, or redirect the shard to the step its record calls for."""
        if names.BATCH_STEPS.index(name) > names.BATCH_STEPS.index(work.shard.step):
            return Redirect(f"{name} is not due: the shard is {work.shard.state}")
        try:
            result = self._steps[name](work)
            if isinstance(result, Parked):
                self._warn(work)
            return result
        except (anthropic.AnthropicError, httpx2.HTTPError, UnexpectedResponse) as error:
            problem = problem_of(error)
            if settings_fault(error) and work.shard.failures + 1 >= _MAX_SETTINGS_FAULTS:
                problem = replace(problem, type=PauseReason.HTTP_SETTINGS, retryable=False)
            if isinstance(error, anthropic.NotFoundError) and error.request.method == "GET":
                noted = noted_404(work.shard, work.job.now_ms())
                work.shard = noted or work.shard
                problem = replace(problem, retryable=noted is not None)
            return self._pause_or_retry(work, problem)
        except (SpoolUnavailable, MissingDependency, ConfigurationError) as error:
            with contextlib.suppress(redis.RedisError):
                work.alert(Alert.SPOOL_UNAVAILABLE, str(error))
            raise  # the task retries the step in a while
        except TypeError:
            if not lacks_credentials(self._api):
                raise
            return self._pause_or_retry(work, _NO_KEY)

    def _pause_or_retry(self, work: ClaimedShard, problem: ApiProblem) -> RetryIn | Parked:
        """Retry the step later, or pause the job."""
        shard = work.shard.evolve(failures=work.shard.failures + 1)
        work.write(shard)
        self._warn(work)
        if not problem.retryable and not work.cancel:  # a canceled job cannot be resumed
            return Parked(str(problem), pause=problem.as_error())
        if not problem.sent and shard.failures >= _UNREACHABLE:
            work.alert(Alert.API_UNREACHABLE, problem.message)
        wait = wait_s(
            shard.failures,
            problem.retry_after,
            self._settings.api_retry_max_wait_s,
            jitter(),
        )
        return RetryIn(wait, str(problem))

    def _warn(self, work: ClaimedShard) -> None:
        """Raise an alert if results that are not collected may expire at the API."""
        shard = work.shard
        age_days = (now_ms() - shard.created_ms) / _DAY_MS if shard.created_ms else 0.0
        if age_days > self._settings.results_alert_days:
            work.alert(
                Alert.RESULTS_EXPIRE,
                f"{shard.batch_id} is {age_days:.0f} days old and its results are not collected; "
                "the API removes them after 29 days",
            )
