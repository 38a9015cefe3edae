"""LoopThread and BackgroundTasks: what happens when a loop or a task of it fails."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.unit.tasks.streams.publish.virtual_time import run_in_virtual_time
from workers import loop as module
from workers.loop import MAX_FAILURES, STEADY_S, BackgroundTasks, LoopThread


class Deaths:
    """Why the process would have ended."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.one = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.one.set()


async def exits() -> None:
    raise SystemExit


def test_a_loop_that_a_task_has_ended_is_reported() -> None:
    deaths = Deaths()
    LoopThread(deaths).submit(exits())
    assert deaths.one.wait(20)
    assert deaths.reasons[0] == "the event loop has ended"


def test_a_loop_is_stopped_before_the_interpreter_ends_and_that_is_not_a_death() -> None:
    deaths = Deaths()
    thread = LoopThread(deaths)
    loop = thread.loop
    thread.stop()
    assert not loop.is_running()
    assert not [each for each in threading.enumerate() if each in thread._threads]
    assert deaths.reasons == []


def test_a_process_stops_its_loop_at_its_end() -> None:
    program = """
import atexit
from workers.loop import LoopThread
thread = LoopThread()
atexit.register(lambda: print(thread.loop.is_running()))
print(thread.loop.is_running())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_a_loop_that_is_blocked_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.01)
    deaths, release = Deaths(), threading.Event()
    thread = LoopThread(deaths)
    thread.loop.call_soon_threadsafe(release.wait)
    assert deaths.one.wait(20)
    assert deaths.reasons == ["the event loop has been blocked for 60 s"]
    release.set()


def test_a_loop_that_answers_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.0001)
    monkeypatch.setattr(module, "MAX_MISSED_CHECKS", 100_000)
    deaths, answered = Deaths(), 0
    thread = LoopThread(deaths)

    async def answer() -> int:
        await asyncio.sleep(0.001)
        return 1

    for _ in range(20):
        answered += thread.submit(answer()).result(20)
    assert (answered, deaths.reasons) == (20, [])


def test_a_process_whose_loop_is_dead_exits_with_an_error_and_its_stacks() -> None:
    code = """
import logging, threading
from workers.loop import LoopThread
logging.basicConfig()
async def exits(): raise KeyboardInterrupt
LoopThread().submit(exits())
threading.Event().wait(20)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "the event loop has ended; the process exits, and other workers take" in done.stderr
    assert "most recent call first" in done.stderr


class Failing:
    """Work that fails as scripted, after some virtual seconds each time."""

    def __init__(self, *errors: BaseException | None, runs_s: float = 0.0) -> None:
        self._errors = list(errors)
        self._runs_s = runs_s
        self.began: list[float] = []

    def __call__(self) -> Coroutine[Any, Any, None]:
        return self._work()

    async def _work(self) -> None:
        self.began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._runs_s)
        if not self._errors:
            await asyncio.Event().wait()
        if error := self._errors.pop(0):
            raise error


def kept(work: Failing, *, essential: bool, seconds: float = 5_000) -> list[str]:
    deaths = Deaths()

    async def run() -> None:
        tasks = BackgroundTasks(deaths)
        tasks.keep("the work", work, essential=essential)
        await asyncio.sleep(seconds)

    run_in_virtual_time(run)
    return deaths.reasons


def test_work_that_fails_or_ends_is_restarted_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Failing(ValueError("odd"), None, asyncio.CancelledError(), ValueError("odd"))
    assert kept(work, essential=True) == []
    pauses = [round(b - a, 3) for a, b in zip(work.began, work.began[1:], strict=False)]
    assert pauses == [0.2, 0.4, 0.8, 1.6]
    assert len(caplog.records) == 4
    assert all(record.levelno == logging.ERROR for record in caplog.records)


def test_essential_work_that_keeps_failing_ends_the_process_and_is_not_restarted() -> None:
    work = Failing(*100 * [ValueError("odd")])
    assert kept(work, essential=True) == [f"the work failed {MAX_FAILURES} times in a row"]
    assert len(work.began) == MAX_FAILURES


def test_other_work_that_keeps_failing_is_restarted_for_ever() -> None:
    work = Failing(*100 * [ValueError("odd")])
    assert kept(work, essential=False) == []
    assert len(work.began) == 101


def test_a_failure_after_a_long_run_is_the_first_again() -> None:
    work = Failing(*3 * MAX_FAILURES * [ValueError("odd")], runs_s=STEADY_S + 1)
    assert kept(work, essential=True) == []


def test_work_that_is_canceled_is_not_restarted() -> None:
    work = Failing()

    async def run() -> None:
        tasks = BackgroundTasks()
        tasks.keep("the work", work)
        await asyncio.sleep(1)
        (task,) = tasks._tasks
        task.cancel()
        await asyncio.sleep(100)
        assert task.cancelled()

    run_in_virtual_time(run)
    assert len(work.began) == 1
