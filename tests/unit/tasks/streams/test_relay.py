"""Relay: ending the task of a stream that is canceled or handed over."""

import asyncio
import gc
from typing import Any

import pytest

from tasks.streams.relay import _cancel_task


async def swallows_the_first_cancellation() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)


async def fails_when_canceled() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise ConnectionError("closed") from None


async def ends_when_canceled() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize(
    "work", [swallows_the_first_cancellation, fails_when_canceled, ends_when_canceled]
)
def test_a_canceled_stream_ends_and_no_error_of_it_is_reported_as_unhandled(work: Any) -> None:
    async def main() -> list[dict[str, Any]]:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, info: reported.append(info))
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        await _cancel_task(task)
        assert task.done()
        del task
        gc.collect()
        return reported

    assert asyncio.run(main()) == []
