"""Faults planted in a worker, which loads this module with Celery's ``--include``.

A request asks for one by its model, so that other requests of the same worker are not affected.
"""

import threading
from typing import Any, Final

from tasks.streams.calls import ApiCalls
from tasks.streams.claim import ClaimedRequest

#: Model → what happens on the event loop once its answer begins.
FAULTS: Final = ("claude-haiku-4-5-exit", "claude-haiku-4-5-block", "claude-haiku-4-5-unwritable")

_relay = ApiCalls._relay


async def _planted(self: ApiCalls, request: ClaimedRequest, call: Any, arriving: Any) -> None:
    if request.model.endswith("-exit"):
        raise SystemExit(7)
    if request.model.endswith("-block"):
        threading.Event().wait(3600)
    if request.model.endswith("-unwritable"):
        request.outbox.note(odd=object())
    await _relay(self, request, call, arriving)


ApiCalls._relay = _planted  # type: ignore[method-assign]
