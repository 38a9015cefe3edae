"""The end of a worker within its grace period, even if Redis hangs.

Celery closes its connections to Redis in order, with a reply to wait for at each step, and only
then ends. Once one reply is missing in a shutdown, no further one is waited for; and whatever hangs
then, the process ends at its limit. Its leases expire, and its messages are delivered again, as if
it had been killed.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

from celery.signals import worker_init, worker_shutting_down
from celery.worker.state import maybe_shutdown

from config.settings import WorkerSettings
from penstock.queue.names import BATCHES_QUEUE
from workers.loop import exit_process

#: Maximum seconds from SIGTERM to the end of a stream worker; the compose file allows 30.
STREAMS_LIMIT_S: Final = 25.0
#: The same for a batch worker, added to the time of its longest call; the compose file allows 60.
BATCHES_LIMIT_S: Final = 45.0


class Shutdown:
    """Whether this process shuts down, and whether Redis still answers it."""

    def __init__(self, end: Callable[[str], None] = exit_process) -> None:
        """``end`` is called with the reason once the limit is over."""
        self.began = False
        #: Redis has not answered a command of the shutdown, and none is sent any more.
        self.silent = False
        self._end = end
        self._interrupted = False

    def begin(self, limit_s: float) -> None:
        """Note that the shutdown has begun, and end the process after ``limit_s`` seconds."""
        if self.began:
            return
        self.began = True
        reason = f"this worker did not shut down within {limit_s:.0f} s"
        limit = threading.Timer(limit_s, self._end, [reason])
        limit.daemon = True
        limit.start()

    def interrupt(self) -> None:
        """Leave the main loop if it connects again although the shutdown has begun.

        Celery sends heartbeats from there, and repeats one without limit. Raises Celery's
        `WorkerShutdown` or `WorkerTerminate`, once, and in the main thread alone.
        """
        if self.began and not self._interrupted and _is_main_thread():
            self._interrupted = self.silent = True
            maybe_shutdown()

    def note_silence(self) -> None:
        """Note that Redis has not answered."""
        self.silent = self.silent or self.began


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


#: The shutdown of this process.
shutdown: Final = Shutdown()


def install(settings: WorkerSettings) -> None:
    """Limit the shutdown of this worker."""
    queues: set[str] = set()

    @worker_init.connect(weak=False)
    def _queues(sender: Any, **_: Any) -> None:
        queues.update(sender.app.amqp.queues.consume_from)

    @worker_shutting_down.connect(weak=False)
    def _begin(**_: Any) -> None:
        longest_s = settings.upload_timeout_s + BATCHES_LIMIT_S
        shutdown.begin(longest_s if BATCHES_QUEUE in queues else STREAMS_LIMIT_S)
