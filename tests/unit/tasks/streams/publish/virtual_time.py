"""An event loop whose clock jumps to the next timer: a lease of a minute costs no time to test."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Virtual seconds until a test that still waits for something has failed.
LIMIT_S = 10_000.0


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the clock where another selector would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everything waits, and no timer will end that"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs timers in their order, without waiting for them."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def virtual_time() -> float:
    """The time of the running loop, for what reads `time.monotonic`."""
    return asyncio.get_running_loop().time()


def run_in_virtual_time(main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main``. Raises `TimeoutError` if it would never end."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await main()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(limited())
