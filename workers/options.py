"""Which of Celery's options and settings a worker accepts.

An option that the thread pool would silently ignore, or that would break the hand-over of streams,
is refused when the worker starts, in one line that names what to use instead.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from celery.concurrency import get_implementation

from config.settings import WorkerSettings
from penstock.queue.names import BATCHES_QUEUE
from workers.pool import TaskPool

_NO_CHILDREN: Final = "the worker is one process without children; "
_NO_TIME_LIMIT: Final = (
    "a thread cannot be stopped; PENSTOCK_STREAM_TOTAL_TIMEOUT_S bounds a call, and the deadline "
    "of a request its time in the queue"
)


class Refusal(NamedTuple):
    """An option without meaning here."""

    option: str  #: on the command line, or ""
    setting: str  #: in the Celery configuration, or ""
    remedy: str

    def __str__(self) -> str:
        names = " or ".join(filter(None, (self.option, self.setting)))
        return f"{names} cannot be used: {self.remedy}"


REFUSALS: Final = (
    Refusal(
        "--autoscale",
        "",
        "a thread is started only when a task needs it; set the maximum with --concurrency",
    ),
    Refusal("--time-limit", "task_time_limit", _NO_TIME_LIMIT),
    Refusal("--soft-time-limit", "task_soft_time_limit", _NO_TIME_LIMIT),
    Refusal(
        "--max-tasks-per-child",
        "worker_max_tasks_per_child",
        f"{_NO_CHILDREN}to renew it, start another worker and send SIGTERM to this one",
    ),
    Refusal(
        "--max-memory-per-child",
        "worker_max_memory_per_child",
        f"{_NO_CHILDREN}limit the memory of its container or service; other workers take over",
    ),
    Refusal("--beat", "", "Penstock schedules nothing; run `celery beat` as a process of its own"),
    Refusal(
        "",
        "worker_pool_restarts",
        f"{_NO_CHILDREN}to renew it, start another worker and send SIGTERM to this one",
    ),
    Refusal(
        "",
        "worker_cancel_long_running_tasks_on_connection_loss",
        "running streams do not need the broker and continue without it",
    ),
    Refusal(
        "",
        "task_acks_late",
        "the record and its lease track a task that runs; a late acknowledgment only repeats it",
    ),
)


def why_refused(
    options: Mapping[str, Any], conf: Mapping[str, Any], queues: Collection[str]
) -> str | None:
    """Return why a worker with these options must not start, None if it may.

    ``options`` are those of the command line, ``conf`` is Celery's configuration, and ``queues``
    are the names of all queues.
    """
    for refusal in REFUSALS:
        name = refusal.option.removeprefix("--").replace("-", "_")
        if options.get(name) or conf.get(refusal.setting):
            return str(refusal)
    return _wrong_pool(options.get("pool") or conf.get("worker_pool")) or _wrong_queues(
        options, queues
    )


def _wrong_pool(pool: Any) -> str | None:
    if isinstance(pool := get_implementation(pool), type) and issubclass(pool, TaskPool):
        return None
    return (
        f"--pool: {pool.__module__} cannot be used: only workers.pool:TaskPool, the default, hands "
        "streams over when it stops; set the number of its threads with --concurrency"
    )


def _wrong_queues(options: Mapping[str, Any], queues: Collection[str]) -> str | None:
    chosen, excluded = _names(options.get("queues")), _names(options.get("exclude_queues"))
    known = " and ".join(queues)
    for name in (*chosen, *excluded):
        if name not in queues:
            return f"--queues: there is no queue {name!r}; the queues are {known}"
    if not set(chosen or queues) - set(excluded):
        return f"--exclude-queues: no queue is left; the queues are {known}"
    return None


def _names(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value or []
    return [str(name) for name in names]


def concurrency(asked: Any, settings: WorkerSettings, queues: Collection[str]) -> int:
    """Return the number of threads, given Celery's own value and the worker's queues.

    ``auto`` means the number of processors to Celery. Tasks that wait for the network need more,
    so here it means the default.
    """
    if asked not in ("auto", settings.streams_concurrency):  # the latter without --concurrency
        return int(asked)
    only_batches = set(queues) == {BATCHES_QUEUE}
    return settings.batches_concurrency if only_batches else settings.streams_concurrency
