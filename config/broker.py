"""The Celery configuration; each deviation from a default states its reason."""

from typing import Any

from kombu import Exchange, Queue

from config.settings import WorkerSettings
from penstock.queue import names
from penstock.queue.wakeups import broker_settings, transport_options


def celery_config(settings: WorkerSettings) -> dict[str, Any]:
    """Return the configuration of the workers' Celery app."""
    return {
        **broker_settings(settings),
        # Waits, without limit, for a Redis that is unavailable or refuses commands.
        "worker_consumer": "workers.consumer:Consumer",
        # In many deployments workers start before Redis.
        "broker_connection_retry_on_startup": True,
        # Without limit instead of a hundred times: a worker must survive any outage.
        "broker_connection_max_retries": None,
        "broker_transport_options": worker_transport_options(settings),
        # State, answers and errors are stored in records. A result backend would be a second
        # source of truth, cost a round trip per task, and hold a connection per thread.
        "result_backend": None,
        "task_ignore_result": True,
        # JSON only: a message must never be able to run code.
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in names.QUEUES],
        "task_default_queue": names.BATCHES_QUEUE,
        "task_routes": lambda name, *_args, **_kwargs: {"queue": names.queue_of(name)},
        "task_create_missing_queues": False,
        # A message is acknowledged when its task starts: from then on the record and its lease
        # track the work. Late acks would only redeliver long streams.
        "task_acks_late": False,
        # Fetch only what can start now: a message prefetched by a busy worker is one that an
        # idle worker does not get.
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        # One process, one event loop, many streams; batch steps mostly wait for the network, too.
        "worker_pool": "workers.pool:TaskPool",
        "worker_concurrency": settings.streams_concurrency,
        # Explicit, because Celery 6 will turn it on: running streams do not need the broker, so
        # a lost broker connection is no reason to end them.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Flower needs task events.
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def worker_transport_options(settings: WorkerSettings) -> dict[str, Any]:
    """Return the options that a worker's kombu needs on top of a producer's."""
    return {
        **transport_options(settings),
        "visibility_timeout": settings.visibility_timeout_s,
        # A message is redelivered by a periodic sweep after its timeout; kombu's default (every
        # tenth 10 s tick) adds up to 100 s to the timeout.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # kombu's 10 connections are too few when many tasks end at the same moment.
        "max_connections": 2 * max(settings.streams_concurrency, settings.batches_concurrency),
        # The main loop waits for each reply, also when the worker is to shut down. Only replies to
        # commands are waited for: a consumer without messages is quiet for as long as it likes.
        "socket_timeout": settings.redis_timeout_s,
        "health_check_interval": 25,
    }
