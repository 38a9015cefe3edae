"""Celery's options and settings that a worker refuses, and its number of threads."""

from typing import Any

import pytest
from celery.concurrency.thread import TaskPool as ThreadPool

from config.broker import celery_config
from config.settings import WorkerSettings
from penstock.queue.names import QUEUES
from workers.options import REFUSALS, Refusal, concurrency, why_refused
from workers.pool import TaskPool

SETTINGS = WorkerSettings(streams_concurrency=200, batches_concurrency=8)


def why(conf: dict[str, Any] | None = None, **options: Any) -> str | None:
    return why_refused(options, {**celery_config(SETTINGS), **(conf or {})}, QUEUES)


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_an_option_without_meaning_is_refused_by_its_name(refusal: Refusal) -> None:
    reasons = []
    if refusal.option:
        option: dict[str, Any] = {refusal.option.removeprefix("--").replace("-", "_"): 5}
        reasons.append(why(**option))
    if refusal.setting:
        reasons.append(why({refusal.setting: 5}))
    for reason in reasons:
        assert reason is not None
        assert reason == str(refusal)
        assert "\n" not in reason


@pytest.mark.parametrize("pool", [ThreadPool, "solo", "threads", "prefork", "processes"])
def test_a_pool_that_hands_nothing_over_is_refused(pool: Any) -> None:
    for reason in (why(pool=pool), why({"worker_pool": pool})):
        assert reason is not None
        assert "workers.pool:TaskPool" in reason


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"queues": ["streams", "stream"]}, "'stream'"),
        ({"queues": "batch"}, "'batch'"),
        ({"exclude_queues": ["typo"]}, "'typo'"),
        ({"exclude_queues": list(QUEUES)}, "no queue is left"),
        ({"queues": ["streams"], "exclude_queues": "streams"}, "no queue is left"),
    ],
)
def test_a_queue_that_does_not_exist_is_refused_by_its_name(
    options: dict[str, Any], name: str
) -> None:
    reason = why(**options)
    assert reason is not None
    assert name in reason
    assert "streams and batches" in reason


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": TaskPool},
        {"pool": "workers.pool:TaskPool", "queues": "streams,batches"},
        {"optimization": "fair", "purge": True, "without_gossip": True, "prefetch_multiplier": 4},
        {"time_limit": None, "autoscale": None, "beat": False, "exclude_queues": ["batches"]},
    ],
)
def test_the_other_options_are_accepted(options: dict[str, Any]) -> None:
    assert why(**options) is None


@pytest.mark.parametrize(
    ("asked", "queues", "threads"),
    [
        (200, ["streams"], 200),
        (200, ["batches"], 8),
        (200, ["streams", "batches"], 200),
        ("auto", ["streams"], 200),
        ("auto", ["batches"], 8),
        (3, ["batches"], 3),
        ("3", ["streams"], 3),
    ],
)
def test_the_number_of_threads_is_the_one_asked_for_or_the_default_of_the_queue(
    asked: Any, queues: list[str], threads: int
) -> None:
    assert concurrency(asked, SETTINGS, queues) == threads
