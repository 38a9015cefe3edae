"""Whether a Redis can promise that a write is on its disk, by the command ``WAITAOF``.

The command is tried: the version that a fork or a managed service reports shows nothing.
"""

import logging
from functools import cache

import redis

from penstock.store.availability import is_unavailable
from penstock.store.redis_protocol import Connection
from penstock.store.server_version import REQUIRED

logger = logging.getLogger(__name__)


class NotDurable(redis.ResponseError):
    """Redis refuses ``WAITAOF``, so no create call is made: it could be paid for twice."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            "Redis cannot promise that a write is on disk, so no batch is created: "
            f"WAITAOF: {error}. Use {REQUIRED}, and allow the workers' user +waitaof; the job "
            "continues then"
        )


def check_durable(connection: Connection) -> None:
    """Try the command. Raises `NotDurable`, or `redis.RedisError` if Redis is unavailable."""
    try:
        with connection.pipeline(transaction=False) as pipe:
            pipe.execute_command("WAITAOF", 0, 0, 1)
            pipe.execute()
    except redis.ResponseError as error:
        if is_not_durable(error):
            raise NotDurable(error) from None
        raise


def is_not_durable(error: redis.ResponseError) -> bool:
    """Whether this reply to ``WAITAOF`` says that there is no such command, or that it is denied.

    False for one of a Redis that is full, loading and so on, which waiting repairs.
    """
    return isinstance(error, redis.exceptions.NoPermissionError) or not is_unavailable(error)


def is_without_file(error: redis.ResponseError) -> bool:
    """Whether the error says that this Redis has no append-only file to wait for."""
    return "appendonly is disabled" in str(error)


@cache
def warn_without_file() -> None:
    """Log once in each process what is not guaranteed without an append-only file."""
    logger.warning(
        "Redis has no append-only file (appendonly no): after a restart of Redis a batch may be "
        "created, and paid for, a second time, and requests may be lost. Set appendonly yes."
    )
