"""What is known of an answer while its events pass; pure."""

from hashlib import sha256
from typing import Any, Final

#: Errors in the middle of a stream after which the same request may well succeed.
TRANSIENT: Final = frozenset({"overloaded_error", "api_error", "timeout_error", "rate_limit_error"})


class StreamBroken(Exception):
    """The answer stopped before its end. ``error`` has the API's ``type`` and ``message``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.error = {"type": kind, "message": message}


class Answer:
    """Follows the API's events of one attempt."""

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.stopped = False  #: message_stop was seen
        self.characters = 0  #: of visible text
        self.has_delta = False
        self._hash = sha256()

    def apply(self, data: dict[str, Any]) -> bool:
        """Take an event; returns whether readers get to see it. Raises `StreamBroken`."""
        kind = data.get("type")
        if kind == "content_block_delta":
            self.has_delta = True
            delta = data.get("delta") or {}
            if delta.get("type") == "text_delta":
                self._text(delta.get("text", ""))
        elif kind == "ping":
            return False
        elif kind == "error":
            error = data.get("error") or {}
            if not isinstance(error, dict):  # a gateway's
                error = {"message": str(error)}
            raise StreamBroken(error.get("type", "api_error"), error.get("message", "no message"))
        elif kind == "message_start":
            self._add_usage((data.get("message") or {}).get("usage"))
        elif kind == "message_delta":
            self.stop_reason = (data.get("delta") or {}).get("stop_reason") or self.stop_reason
            self._add_usage(data.get("usage"))
        elif kind == "message_stop":
            self.stopped = True
        return True

    @property
    def complete(self) -> bool:
        """Whether the answer has really ended. A closed connection alone says nothing: the SDK
        raises no error when a proxy ends the body early."""
        return self.stopped and self.stop_reason is not None

    @property
    def text_sha256(self) -> str:
        """Hash of the visible text so far, for readers to check theirs against."""
        return self._hash.hexdigest()

    def _text(self, piece: str) -> None:
        self.characters += len(piece)
        self._hash.update(piece.encode())

    def _add_usage(self, usage: dict[str, Any] | None) -> None:
        # Cumulative: a later number replaces an earlier one, and null means "unchanged".
        self.usage.update({k: v for k, v in (usage or {}).items() if v is not None})
