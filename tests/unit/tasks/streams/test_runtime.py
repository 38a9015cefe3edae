"""StreamRuntime: a shutdown ends, whatever has happened to the event loop."""

import asyncio
import threading
from typing import Any

import pytest

from config.settings import WorkerSettings
from tasks.streams.result import RunResult
from tasks.streams.runtime import StreamRuntime
from workers.loop import LoopThread


class StuckRelay:
    """A relay whose streams never end, and whose hand-over never runs or does nothing."""

    def __init__(self) -> None:
        self.runs = threading.Semaphore(0)

    async def run(self, id: str) -> RunResult:
        self.runs.release()
        await asyncio.Event().wait()
        raise AssertionError

    def hand_over(self) -> None:
        pass


@pytest.mark.parametrize("is_blocked", [False, True])
def test_threads_that_wait_for_a_stream_are_freed_at_shutdown_even_if_the_loop_is_blocked(
    is_blocked: bool,
) -> None:
    loop, relay, release = LoopThread(lambda _: None), StuckRelay(), threading.Event()
    runtime = StreamRuntime(WorkerSettings.load(), loop)
    stub: Any = relay
    runtime._relay = stub
    results: list[RunResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(runtime.run("id")), daemon=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
        assert relay.runs.acquire(timeout=20)
    if is_blocked:
        loop.loop.call_soon_threadsafe(release.wait)
    runtime.hand_over()
    runtime.abandon()
    for thread in threads:
        thread.join(20)
    release.set()
    assert [result.state for result in results] == 3 * ["skipped"]


def test_a_worker_that_has_not_begun_to_run_streams_has_nothing_to_hand_over() -> None:
    StreamRuntime(WorkerSettings.load(), LoopThread(lambda _: None)).hand_over()
