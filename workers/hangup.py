"""What SIGHUP does to a worker.

Without a terminal, Celery lets it restart the worker: tasks are handed over, and the same command
is executed again in the same process. With a terminal Celery leaves it alone, so closing the window
would kill the worker.
"""

import signal
import sys
from types import FrameType

from celery.platforms import EX_OK
from celery.signals import celeryd_init, worker_ready
from celery.worker import state


def install() -> None:
    """Connect to the signals of Celery's start."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup
    celeryd_init.connect(_repeatable_command, weak=False)
    worker_ready.connect(lambda **_: set_handler(ignored=ignored), weak=False)


def set_handler(*, ignored: bool) -> None:
    """Shut down warmly when the terminal is closed; keep ignoring SIGHUP under nohup."""
    if ignored:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    elif signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    state.should_stop = EX_OK  # type: ignore[assignment]  # a stub's gap


def _repeatable_command(**_: object) -> None:
    # Celery restarts the worker as `python sys.argv…`. After `python -m celery` that is a file
    # which cannot run on its own.
    if sys.argv[0].endswith("__main__.py"):
        sys.argv[:1] = ["-m", "celery"]
