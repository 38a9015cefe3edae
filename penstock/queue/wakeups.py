"""Wake-ups: the Celery messages that tell workers to look at a record.

A message carries only ids. What a step needs lies in the record, so a message that is lost can
be sent again and one that comes twice finds its step claimed or done. Producers use
``send_task``: they never import the tasks.
"""

from typing import TYPE_CHECKING, Any

from penstock.errors import RedisUnavailable
from penstock.queue import names
from penstock.settings import ClientSettings
from penstock.store.record import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature


def transport_options(settings: ClientSettings) -> dict[str, Any]:
    """What kombu must know of the Redis transport, in producers and workers alike."""
    return {
        "global_keyprefix": names.celery_prefix(settings.key_prefix),
        # kombu's default is to wait for ever on a dead link: a publish would hang with it.
        "socket_connect_timeout": settings.redis_timeout_s,
        "socket_keepalive": True,
    }


def chain_from(app: "Celery", step: str, job: str, shard: int, model: str) -> "Signature[Any]":
    """The chain of a shard's steps from ``step`` on; every step can be the first of a new chain."""
    from celery import chain

    steps = names.BATCH_STEPS[names.BATCH_STEPS.index(step) :]
    return chain(
        *(
            app.signature(
                name,
                args=(job, shard),
                immutable=True,  # the state of a job lies in its record, not in task results
                options={
                    "queue": names.BATCHES_QUEUE,
                    "ignore_result": True,
                    **flower_reprs("batch", model, job, shard),
                },
            )
            for name in steps
        )
    )


def flower_reprs(kind: str, model: str, id: str, shard: int | None = None) -> dict[str, Any]:
    """What Flower and the logs show of a message's arguments. Never a prompt."""
    facts = {"kind": kind, "model": model}
    args = f"({id!r},)" if shard is None else f"({id!r}, {shard})"
    return {"argsrepr": args, "kwargsrepr": repr(facts)}


def send_stream(app: "Celery", id: str, model: str, priority: int) -> None:
    """Send the wake-up of a recorded request."""
    app.send_task(
        names.STREAM,
        args=(id,),
        task_id=id,
        queue=names.STREAMS_QUEUE,
        priority=priority,
        ignore_result=True,
        **flower_reprs("stream", model, id),
    )


def send_shard(app: "Celery", job: str, shard: int, model: str, step: str) -> None:
    """Send the wake-up of a recorded shard: the chain of its steps from ``step`` on."""
    chain_from(app, step, job, shard, model).apply_async()


class WakeUps:
    """Sends wake-ups on behalf of a producer."""

    def __init__(self, settings: ClientSettings) -> None:
        # Celery takes a while to import; a process that only reads never needs it.
        from celery import Celery

        self._app = Celery("penstock-producer", set_as_current=False)
        self._app.conf.update(
            broker_url=settings.redis_url.get_secret_value(),
            broker_transport_options=transport_options(settings),
            result_backend=None,
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            # One more try, at once: whoever enqueues from a web request cannot wait for longer.
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0},
        )

    def stream(self, id: str, model: str, priority: int = DEFAULT_PRIORITY) -> None:
        """Announce a recorded request. Raises `RedisUnavailable`."""
        with _translated():
            send_stream(self._app, id, model, priority)

    def batch(self, job: str, shard: int, model: str, step: str = names.BATCH_CREATE) -> None:
        """Announce a recorded shard of a batch job. Raises `RedisUnavailable`."""
        with _translated():
            send_shard(self._app, job, shard, model, step)

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()


class _translated:  # noqa: N801 - reads as the context manager it is
    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from kombu.exceptions import OperationalError

        if isinstance(error, OperationalError):
            raise RedisUnavailable(f"the Celery queue cannot be reached: {error}") from error
