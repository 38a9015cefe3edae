"""Conversations that the API holds: `thread` in a request creates or continues one."""

from dataclasses import dataclass
from typing import Any

from penstock.simulator import request_json
from penstock.simulator.errors import ApiError, invalid
from penstock.simulator.messages.conversation import Body

#: Seconds for which a response can be continued.
LIFE_S = 300.0

_FINGERPRINT = ("model", "system", "tools")
_UNSUPPORTED = ("cache_control", "context_management", "fallbacks")


@dataclass
class _Turn:
    """A response that can be continued."""

    fingerprint: bytes
    expires_at: float
    state: str = ""  #: the error of a second continuation: in flight, or done


class Threads:
    """The responses that can be continued, by message id."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def clear(self) -> None:
        """Forget every thread."""
        self._turns.clear()

    def begin(self, body: Body, now: float) -> None:
        """Check a request with a thread. Raises the API's errors.

        ``now`` is in seconds of any clock that never goes back.
        """
        thread = body.get("thread")
        if thread is None:
            return
        asked = [name for name in _UNSUPPORTED if body.get(name)]
        if asked:
            raise _error("thread_unsupported_request", f"thread: not supported with {asked[0]}")
        if not isinstance(thread, dict) or thread.get("type") not in ("create", "continue"):
            raise invalid("thread.type: Input should be 'create' or 'continue'")
        if thread["type"] == "create":
            return
        if not isinstance(thread.get("previous_message_id"), str):
            raise invalid("thread.continue.previous_message_id: Field required")
        turn = self._turns.get(thread["previous_message_id"])
        if turn is None or turn.expires_at <= now:
            raise _error("thread_not_found", "No usable Thread state was found.", status=404)
        if turn.state:
            raise _error(turn.state, "The previous message has been continued already.")
        if turn.fingerprint != _fingerprint(body):
            raise _error("thread_fingerprint_mismatch", "A field differs from the Thread's.")
        turn.state = "thread_continue_in_flight"

    def end(self, body: Body, message_id: str | None, now: float) -> None:
        """End a request that has begun; ``message_id`` is None if it was not answered in full."""
        thread = body.get("thread")
        if not isinstance(thread, dict):
            return
        if thread.get("type") == "continue":
            previous = self._turns[thread["previous_message_id"]]
            previous.state = "thread_already_continued"
        if message_id is not None:
            self._turns[message_id] = _Turn(_fingerprint(body), now + LIFE_S)


def _fingerprint(body: Body) -> bytes:
    return request_json.dumps([body.get(name) for name in _FINGERPRINT])


def _error(code: str, message: str, *, status: int = 400) -> ApiError:
    kind: Any = "not_found_error" if status == 404 else "invalid_request_error"
    return ApiError(kind, message, status=status, error_code=code)
