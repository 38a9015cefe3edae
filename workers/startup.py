"""What must be right before a worker takes its first task; each fault is one clear line."""

import logging
from typing import Any

import redis
from celery.signals import celeryd_init, setup_logging, worker_init

from config.logs import configure_logs
from config.settings import WorkerSettings
from penstock.queue.names import BATCHES_QUEUE
from penstock.store.connection import connect, redis_address

logger = logging.getLogger(__name__)


class StartRefused(SystemExit):
    """The worker cannot do its work; the process ends with the message as its last line."""

    def __init__(self, message: str) -> None:
        super().__init__(f"penstock: {message}")


def install(settings: WorkerSettings) -> None:
    """Connect the checks and the logs to Celery's start-up."""

    @setup_logging.connect(weak=False)
    def _logs(**_: Any) -> None:
        configure_logs(settings)

    @celeryd_init.connect(weak=False)
    def _check(**_: Any) -> None:
        check_credentials(settings)
        check_redis(settings)

    @worker_init.connect(weak=False)
    def _size(sender: Any, **_: Any) -> None:
        queues = set(sender.app.amqp.queues.consume_from)
        # Celery fills in the app's default where -c was not given.
        if queues == {BATCHES_QUEUE} and sender.concurrency == settings.streams_concurrency:
            sender.concurrency = settings.batches_concurrency


def check_credentials(settings: WorkerSettings) -> None:
    """Refuse to start without any way to authenticate: every request would be failed."""
    import anthropic

    if settings.anthropic_api_key is not None:
        return
    client = anthropic.Anthropic(max_retries=0)
    if client.api_key is None and client.auth_token is None and client.credentials is None:
        raise StartRefused(
            "no API key: set ANTHROPIC_API_KEY for the workers. "
            "Requests stay in the queue until a worker with a key starts."
        )


def check_redis(settings: WorkerSettings) -> None:
    """Refuse to start with a password that Redis does not take; wait where it is only down."""
    connection = connect(settings)
    try:
        policy = connection.config_get("maxmemory-policy").get("maxmemory-policy")
    except redis.AuthenticationError as error:
        raise StartRefused(
            f"Redis at {redis_address(settings)} refused the user or password "
            f"in PENSTOCK_REDIS_URL: {error}"
        ) from None
    except redis.RedisError:
        return  # down: Celery waits for it; no rights to CONFIG: nothing to learn
    finally:
        connection.close()
    if policy not in (None, "noeviction"):
        logger.warning(
            "Redis evicts keys when it is full (maxmemory-policy %s): answers and queue bindings "
            "can vanish. Set it to noeviction.",
            policy,
        )
