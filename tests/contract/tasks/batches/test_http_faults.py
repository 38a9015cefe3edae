"""Calls that do not reach the API show in the record of their job."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anthropic
import httpx2
import orjson
import pytest

from penstock.queue import names
from tasks.batches.step_result import Parked, RetryIn, StepResult
from tasks.batches.steps import BatchSteps
from tests.contract.jobs import expect
from tests.contract.tasks.batches.batch_stage import BatchStage, StagedJob

Failing = Callable[[StagedJob], StepResult]


@contextmanager
def failing(stage: BatchStage, error: Callable[[], Exception]) -> Iterator[Failing]:
    """The create step with a connection that fails."""

    def fail(_: httpx2.Request) -> httpx2.Response:
        raise error()

    client = httpx2.Client(transport=httpx2.MockTransport(fail))
    with anthropic.Anthropic(api_key="k", http_client=client, max_retries=0) as api:
        steps, before = BatchSteps(stage.settings, api), stage.steps
        stage.steps = steps
        yield lambda job: job.step(names.BATCH_CREATE)
        stage.steps = before


def untrusted() -> Exception:
    error = httpx2.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    return error


@pytest.mark.parametrize(
    "error",
    [
        untrusted,
        lambda: httpx2.ProxyError("407 Proxy Authentication Required"),
        lambda: httpx2.UnsupportedProtocol("no such scheme"),
        lambda: httpx2.TooManyRedirects("in a loop"),
    ],
)
def test_a_fault_of_proxy_or_certificates_pauses_the_job_after_five_calls(
    stage: BatchStage, error: Callable[[], Exception]
) -> None:
    job = stage.submit("a")
    with failing(stage, error) as create:
        for _ in range(4):
            assert isinstance(create(job), RetryIn)
        assert (expect(Parked, create(job)).pause or {})["type"] == "http_settings"
    paused = orjson.loads(job.meta("paused"))
    assert str(error()) in paused["message"]
    assert "https://api.anthropic.com" in paused["message"]


def test_a_network_that_is_down_for_minutes_raises_an_alert_and_pauses_nothing(
    stage: BatchStage,
) -> None:
    job = stage.submit("a")
    with failing(stage, lambda: httpx2.ConnectError("Connection refused")) as create:
        for _ in range(9):
            assert isinstance(create(job), RetryIn)
        assert job.meta("alert") == ""
        assert isinstance(create(job), RetryIn)
    alert = orjson.loads(job.meta("alert"))
    assert alert["type"] == "api_unreachable"
    assert "Connection refused" in alert["message"]
    assert job.meta("paused") == ""


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (httpx2.Response(500, html="<html>oops</html>"), "HTTP 500"),
        (httpx2.Response(200, html="<html>Log in</html>"), "<html>Log in</html>"),
        (httpx2.Response(200, json={"data": {}}), "not a list"),
    ],
)
def test_calls_that_fail_for_minutes_raise_an_alert_that_names_the_fault(
    stage: BatchStage, answer: httpx2.Response, fault: str
) -> None:
    job = stage.submit("a")
    client = httpx2.Client(transport=httpx2.MockTransport(lambda _: answer))
    with anthropic.Anthropic(api_key="k", http_client=client, max_retries=0) as api:
        stage.steps = BatchSteps(stage.settings, api)
        for _ in range(10):
            assert job.meta("alert") == ""
            assert isinstance(job.step(names.BATCH_CREATE), RetryIn)
    alert = orjson.loads(job.meta("alert"))
    assert alert["type"] == "api_failing"
    assert fault in alert["message"]
