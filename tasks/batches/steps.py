"""Runs the steps of a shard, create → poll → collect → finish, and handles errors of the API.

Each step can run twice without harm: it reads the record first and does only what is missing.
Only the create step spends money. No error of the API ends a job: the call is retried later, or the
job is paused for one clear reason until the operator resumes it.

An error that no step foresees is treated as the fault of this one shard: it is counted in the
shard's record, the step is retried a bounded number of times, and then the job is paused.
"""

import contextlib
import logging
from dataclasses import replace
from typing import Final

import anthropic
import httpx2
import redis

from config.http_clients import settings_fault
from config.settings import WorkerSettings
from penstock import json_text
from penstock.access.redaction import redacted_beginning
from penstock.batches.notices import Alert, PauseReason
from penstock.batches.shard import Shard, ShardState
from penstock.clock import now_ms
from penstock.errors import ConfigurationError, MissingDependency, SpoolUnavailable
from penstock.jitter import jitter
from penstock.queue import names
from tasks.api.client import ApiProblem, UnexpectedResponse, lacks_credentials, problem_of
from tasks.api.retry import wait_s
from tasks.batches.claim import Fenced
from tasks.batches.claimed_shard import ClaimedShard
from tasks.batches.collect.step import CollectStep
from tasks.batches.create.step import CreateStep
from tasks.batches.finish import FinishStep
from tasks.batches.limits import active_batches
from tasks.batches.poll import PollStep
from tasks.batches.step_result import Next, Parked, Redirect, RetryIn, StepResult
from tasks.batches.transient_404 import noted_404
from tasks.batches.unavailable import collect_without

logger = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000

#: Milliseconds after a job was canceled until an unreadable record of a shard is given up: a newer
#: worker may be able to read it.
_UNREADABLE_MS: Final = 900_000

#: Maximum times in a row that a step may fail with an error that it does not foresee.
MAX_STEP_ERRORS: Final = 6

#: Seconds until a step of a canceled job is retried after that, and until a worker looks again at a
#: shard whose state it does not know: a newer worker may know it.
_RETRY_S: Final = 60.0

#: Maximum characters of the text of an error in a pause reason.
_MAX_TEXT: Final = 500

#: Calls in a row that fail because of the workers' proxy or certificates before the job is paused:
#: those of a gateway can be wrong for a minute as well.
_MAX_SETTINGS_FAULTS: Final = 5

_NO_KEY = ApiProblem(type=PauseReason.AUTHENTICATION_ERROR, message="the workers have no API key")

#: Calls in a row that fail or do not reach the API, over some minutes, before they raise an alert.
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
        if work.unreadable or not work.shard.is_known:
            return _leave_alone(work)
        if names.BATCH_STEPS.index(name) > names.BATCH_STEPS.index(work.shard.step):
            return Redirect(f"{name} is not due: the shard is {work.shard.state}")
        try:
            result = self._run(name, work)
        except (Fenced, redis.RedisError, SpoolUnavailable, MissingDependency, ConfigurationError):
            raise
        except Exception as error:
            return self._count_error(name, work, error)
        if work.shard.step_errors and work.lease.held:
            work.write(work.shard.evolve(step_errors=0))
        return result

    def _run(self, name: str, work: ClaimedShard) -> StepResult:
        try:
            result = self._steps[name](work)
            if isinstance(result, Parked):
                self._warn(work)
            return result
        except (anthropic.AnthropicError, httpx2.HTTPError, UnexpectedResponse) as error:
            problem = problem_of(error)
            if settings_fault(error):
                final = work.shard.failures + 1 >= _MAX_SETTINGS_FAULTS
                kind = PauseReason.HTTP_SETTINGS if final else problem.type
                problem = replace(problem, type=kind, retryable=not final)
            if isinstance(error, anthropic.NotFoundError) and error.request.method == "GET":
                noted = noted_404(work.shard, work.job.now_ms())
                # Once the job is resumed, the API gets the same time again.
                work.shard = noted or work.shard.evolve(not_found_ms=0)
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

    def _count_error(self, name: str, work: ClaimedShard, error: Exception) -> StepResult:
        """Retry a step that failed with an error that is not foreseen, or pause the job.

        What the step has stored before is as it was. Raises `Fenced`, `redis.RedisError`.
        """
        shard, kind = work.shard, type(error).__name__
        reason = f"{name} failed: {kind}"
        logger.exception("job %s shard %s: %s failed", work.job.id, shard.number, name)
        count = shard.step_errors + 1
        if count < MAX_STEP_ERRORS:
            work.write(shard.evolve(step_errors=count))
            wait = wait_s(count, None, self._settings.api_retry_max_wait_s, jitter())
            return RetryIn(wait, reason)
        message = f"{name} of shard {shard.number} failed {count} times in a row: {kind}: {error}"
        message = redacted_beginning(message, _MAX_TEXT)
        if not work.cancel:
            work.write(shard.evolve(step_errors=0))
            why = {"type": PauseReason.STEP_FAILED, "message": f"{message}; {_kept(shard)}"}
            return Parked(reason, pause=why)
        if shard.state == ShardState.COLLECTED:  # its results stay; only the job has not ended
            return RetryIn(_RETRY_S, reason)
        return collect_without(work, Alert.STEP_FAILED, message, fatal=False)

    def _pause_or_retry(self, work: ClaimedShard, problem: ApiProblem) -> RetryIn | Parked:
        """Retry the step later, or pause the job."""
        shard = work.shard.evolve(failures=work.shard.failures + 1)
        work.write(shard)
        self._warn(work)
        if not problem.retryable and not work.cancel:  # a canceled job cannot be resumed
            return Parked(str(problem), pause=problem.as_error())
        if shard.failures >= _UNREACHABLE:
            kind = Alert.API_FAILING if problem.sent else Alert.API_UNREACHABLE
            work.alert(kind, problem.message)
        wait = wait_s(
            shard.failures,
            problem.retry_after,
            self._settings.api_retry_max_wait_s,
            jitter(),
        )
        return RetryIn(wait, str(problem), failed=True)

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


def _leave_alone(work: ClaimedShard) -> StepResult:
    """Pause the job for an unreadable record, or wait for a worker that knows the shard's state.

    If the job is canceled, a newer worker has some time to read the record; then it is given up.
    """
    if not work.unreadable:
        state = f"{work.shard.state:.40}"
        return RetryIn(_RETRY_S, f"the shard is {state!r}, a state of a newer worker")
    if work.cancel:
        [canceled_ms] = work.job.fields("cancel_ms")
        if work.job.now_ms() - int(canceled_ms or 0) < _UNREADABLE_MS:
            return RetryIn(_RETRY_S, work.unreadable)
        return _give_up_record(work)
    why = {"type": PauseReason.RECORD_UNREADABLE, "message": work.unreadable}
    return Parked(work.unreadable, pause=why)


def _give_up_record(work: ClaimedShard) -> Next:
    """Replace the unreadable record of a canceled job's shard, so that the job ends as failed."""
    logger.error("job %s: %s; it is given up", work.job.id, work.unreadable)
    error = {"type": PauseReason.RECORD_UNREADABLE, "message": work.unreadable}
    ended = Shard(
        number=work.shard.number, state=ShardState.COLLECTED, collected_ms=work.job.now_ms()
    )
    active_batches.release(work)
    # If the record was of a collected shard, one too many is subtracted: the finish step looks at
    # every record before it ends a job.
    work.advance("collect", ended, left=-1, spent="all", error=json_text.dumps(error))
    return Next({"kind": "batch", "error": str(PauseReason.RECORD_UNREADABLE)})


def _kept(shard: Shard) -> str:
    """Return what is kept of a shard whose step fails."""
    if shard.batch_id and shard.state != ShardState.COLLECTED:
        return f"{shard.batch_id} and its results are kept at the API for 29 days"
    return "the shard's requests, and the results of all other shards, are kept"
