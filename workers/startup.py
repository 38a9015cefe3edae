"""Checks that run before a worker's first task; each problem is one line."""

import logging
from typing import Any

import httpx2
import redis
from celery.signals import celeryd_init, setup_logging, worker_init

from config.http_clients import check_http, sync_http_client
from config.logs import configure_logs
from config.settings import WorkerSettings
from penstock.access.redaction import redacted
from penstock.errors import ConfigurationError
from penstock.queue.names import BATCHES_QUEUE
from penstock.store.connection import IN_CLUSTER_MODE, connect, redis_address
from penstock.store.durability import NotDurable, check_durable
from penstock.store.tls_errors import tls_problem
from workers import hangup, remote_control
from workers.options import concurrency, why_refused

logger = logging.getLogger(__name__)


class StartRefused(SystemExit):
    """The worker cannot start; the message is the last line that the process prints."""

    def __init__(self, message: str) -> None:
        super().__init__(f"penstock: {message}")


def install(settings: WorkerSettings) -> None:
    """Connect the checks and the logs to the signals of Celery's start."""

    @setup_logging.connect(weak=False)
    def _logs(logfile: str | None = None, **_: Any) -> None:
        configure_logs(settings, logfile)

    hangup.install()

    @celeryd_init.connect(weak=False)
    def _check(conf: Any, options: dict[str, Any], **_: Any) -> None:
        remote_control.install()
        check_options(options, conf)
        check_http_settings(settings)
        check_credentials(settings)
        check_redis(settings)

    @worker_init.connect(weak=False)
    def _size(sender: Any, **_: Any) -> None:
        queues = sender.app.amqp.queues.consume_from
        if BATCHES_QUEUE in queues:
            check_durability(settings)
        sender.concurrency = concurrency(sender.concurrency, settings, queues)


def check_options(options: dict[str, Any], conf: Any) -> None:
    """Refuse to start with an option of Celery that has no meaning here."""
    why = why_refused(options, conf, [queue.name for queue in conf.task_queues])
    if why is not None:
        raise StartRefused(why)


def check_http_settings(settings: WorkerSettings) -> None:
    """Refuse to start with a proxy or certificates that cannot be used: every call would fail."""
    try:
        check_http(settings)
    except ConfigurationError as error:
        raise StartRefused(str(error)) from None


def check_credentials(settings: WorkerSettings) -> None:
    """Refuse to start without credentials for the API: every request would fail."""
    import anthropic

    if settings.anthropic_api_key is not None or settings.anthropic_auth_token is not None:
        return
    timeout = httpx2.Timeout(settings.connect_timeout_s)
    client = anthropic.Anthropic(max_retries=0, http_client=sync_http_client(settings, timeout))
    if client.api_key is None and client.auth_token is None and client.credentials is None:
        raise StartRefused(
            "no API key: set ANTHROPIC_API_KEY for the workers. "
            "Requests stay in the queue until a worker with a key starts."
        )


def check_durability(settings: WorkerSettings) -> None:
    """Refuse to start a batch worker on a Redis that cannot promise that a write is on disk."""
    connection = connect(settings)
    try:
        check_durable(connection)
    except NotDurable as error:
        raise StartRefused(f"Redis at {redis_address(settings)}: {error}") from None
    except redis.RedisError:
        return  # unavailable: Celery waits for it, and each create step asks again
    finally:
        connection.close()


def check_redis(settings: WorkerSettings) -> None:
    """Refuse to start if Redis rejects the credentials, but not if it is unavailable."""
    connection = connect(settings)
    try:
        if connection.info().get("cluster_enabled"):
            raise StartRefused(f"Redis at {redis_address(settings)} {IN_CLUSTER_MODE}")
        policy = connection.config_get("maxmemory-policy").get("maxmemory-policy")
    except redis.AuthenticationError as error:
        raise StartRefused(
            f"Redis at {redis_address(settings)} refused the user or password "
            f"in PENSTOCK_REDIS_URL: {redacted(str(error))}"
        ) from None
    except redis.RedisError as error:
        if problem := tls_problem(error):  # waiting does not repair it
            raise StartRefused(f"Redis at {redis_address(settings)}: {problem}") from None
        return  # unavailable: Celery waits for it. No right to use CONFIG: nothing to check.
    finally:
        connection.close()
    if policy not in (None, "noeviction"):
        logger.warning(
            "Redis evicts keys when it is full (maxmemory-policy %s): answers and queue bindings "
            "can be lost. Set it to noeviction.",
            policy,
        )
