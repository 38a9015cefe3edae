"""SIGHUP: Celery's handler stays, a closed terminal shuts down, nohup is respected."""

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from celery.worker import state

from workers.hangup import set_handler


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)
    state.should_stop = None


def celerys_restart(_number: int, _frame: FrameType | None) -> None: ...


def test_a_closed_terminal_begins_a_warm_shutdown() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    set_handler(ignored=False)
    os.kill(os.getpid(), signal.SIGHUP)
    assert state.should_stop == 0


def test_celerys_restart_without_a_terminal_remains() -> None:
    signal.signal(signal.SIGHUP, celerys_restart)
    set_handler(ignored=False)
    assert signal.getsignal(signal.SIGHUP) is celerys_restart


def test_a_worker_under_nohup_ignores_sighup() -> None:
    signal.signal(signal.SIGHUP, celerys_restart)
    set_handler(ignored=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
