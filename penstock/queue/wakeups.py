"""Wake-ups: the Celery messages that make a worker check a record.

A message contains only ids. What a task needs is in the record, so a lost message can be sent
again, and a duplicate finds its work claimed or done. Producers use ``send_task`` and never import
the tasks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penstock.access.redaction import redact_exception
from penstock.access.redis_url import RedisUrl
from penstock.errors import RedisUnavailable
from penstock.queue import names
from penstock.settings import ClientSettings
from penstock.store.record import DEFAULT_PRIORITY
from penstock.store.tls_errors import tls_problem, tls_question

#: Maximum characters of a model's name in Flower.
_MODEL_SHOWN = 100

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature


def broker_settings(settings: ClientSettings) -> dict[str, Any]:
    """Celery's configuration of the broker, for producers and workers.

    The URLs for reading and writing are given as well, so that ``CELERY_BROKER_URL``, which may be
    of another Celery app in the same process, does not take their place.
    """
    url = settings.redis.broker_url
    return {
        "broker_url": url,
        "broker_read_url": url,
        "broker_write_url": url,
        "broker_use_ssl": settings.redis.broker_tls,
        "broker_transport_options": transport_options(settings),
    }


def transport_options(settings: ClientSettings) -> dict[str, Any]:
    """The options of kombu's Redis transport, for producers and workers."""
    url = settings.redis
    return {
        **({"client_name": url.client_name} if url.client_name else {}),
        # Not an option: kombu shares connections between apps whose URLs and options are equal,
        # whatever their TLS options are.
        "tls": {name: value for name, value in url.tls.items() if name != "ssl_password"},
        "global_keyprefix": names.celery_prefix(settings.key_prefix),
        # By default kombu waits without limit on a dead connection, and so would a publish.
        "socket_connect_timeout": settings.redis_timeout_s,
        # In effect before the TLS handshake as well, which has no other limit.
        "socket_timeout": settings.redis_timeout_s,
        "socket_keepalive": True,
    }


# ``declare=[]`` below: workers declare the queues. A producer would write to the keys of Celery's
# bindings, which say to which lists every message goes.


def chain_from(app: "Celery", step: str, job: str, shard: int, model: str) -> "Signature[Any]":
    """The Celery chain of a shard, from ``step`` on. Any step can begin a new chain."""
    from celery import chain

    steps = names.BATCH_STEPS[names.BATCH_STEPS.index(step) :]
    return chain(
        *(
            app.signature(
                name,
                args=(job, shard),
                immutable=True,  # the state of a job is in its record, not in task results
                options={
                    "queue": names.BATCHES_QUEUE,
                    "ignore_result": True,
                    "declare": [],
                    **flower_reprs("batch", model, job, shard),
                },
            )
            for name in steps
        )
    )


def flower_reprs(kind: str, model: str, id: str, shard: int | None = None) -> dict[str, Any]:
    """The arguments of a message as Flower and the logs show them. Never a prompt."""
    shown = {"kind": kind, "model": model[:_MODEL_SHOWN]}
    args = f"({id!r},)" if shard is None else f"({id!r}, {shard})"
    return {"argsrepr": args, "kwargsrepr": repr(shown)}


def send_stream(app: "Celery", id: str, model: str, priority: int) -> None:
    """Send the wake-up of a recorded request."""
    app.send_task(
        names.STREAM,
        args=(id,),
        task_id=id,
        queue=names.STREAMS_QUEUE,
        priority=priority,
        ignore_result=True,
        declare=[],
        **flower_reprs("stream", model, id),
    )


def send_shard(app: "Celery", job: str, shard: int, model: str, step: str) -> None:
    """Send the wake-up of a recorded shard: the chain of its tasks from ``step`` on."""
    chain_from(app, step, job, shard, model).apply_async()


class WakeUps:
    """Sends the wake-ups of a producer."""

    def __init__(self, settings: ClientSettings) -> None:
        # Celery is slow to import; a process that only reads never needs it.
        from celery import Celery

        self._redis = settings.redis
        self._app = Celery("penstock-producer", set_as_current=False)
        self._app.conf.update(
            **broker_settings(settings),
            result_backend=None,
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            # One retry, at once: a producer in a web request cannot wait longer.
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0},
        )

    def stream(self, id: str, model: str, priority: int = DEFAULT_PRIORITY) -> None:
        """Send the wake-up of a recorded request. Raises `RedisUnavailable`."""
        with _errors_translated(self._redis):
            send_stream(self._app, id, model, priority)

    def batch(self, job: str, shard: int, model: str, step: str = names.BATCH_CREATE) -> None:
        """Send the wake-up of a recorded shard. Raises `RedisUnavailable`."""
        with _errors_translated(self._redis):
            send_shard(self._app, job, shard, model, step)

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()


@contextmanager
def _errors_translated(url: RedisUrl) -> Iterator[None]:
    from kombu.exceptions import OperationalError

    try:
        yield
    except OperationalError as error:
        redact_exception(error)
        problem = tls_problem(error) or f"{error}.{tls_question(url, error)}"
        raise RedisUnavailable(f"the Celery queue cannot be reached: {problem}") from error
