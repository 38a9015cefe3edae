"""Reads the response to one live call into a message. Pure.

A live call is streamed, so that a long answer keeps its connection busy. A gateway may send the
complete message as JSON all the same: then that is the answer. Whatever else arrives is quoted in
the error.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from penstock import json_text
from tasks.api.client import UnexpectedResponse
from tasks.api.retry import REFUSALS
from tasks.api.sse import MAX_EVENT_BYTES, InvalidResponse, SSEDecoder

#: Characters of an unexpected response that its error quotes.
_QUOTED: Final = 120

#: Fields of a delta that are a value of their own; other texts continue what the block has.
_WHOLE: Final = frozenset({"signature", "content", "encrypted_content"})


class CallFailed(UnexpectedResponse):
    """A live call whose response began with success and has no complete message."""

    def __init__(self, type: str, message: str, *, refused: bool = False) -> None:
        super().__init__(f"{type}: {message}")
        self.type = type  #: the API's error type, or one of ours
        self.refused = refused  #: the API was overloaded, and the answer had not begun: it is free


def read_message(pieces: Iterable[bytes]) -> dict[str, Any]:
    """Return the message in a response of the Messages API. Raises `CallFailed`."""
    received = iter(pieces)
    head = b""
    for piece in received:
        head = (head + piece).lstrip()
        if head:
            break
    body = _chained(head, received)
    if head[:1] in (b"{", b"["):
        return _from_json(_joined(body))
    if head[:1] in (b"", b"<"):
        raise CallFailed("unexpected_response", f"the response is {quoted(head)}")
    return _from_stream(body, head)


def until(time_s: float, pieces: Iterable[bytes], now_s: Callable[[], float]) -> Iterator[bytes]:
    """Yield the pieces of a response that arrive before ``time_s``. Raises `CallFailed` then.

    A response that never ends, such as one of pings alone, would never be silent.
    """
    for piece in pieces:
        if now_s() > time_s:
            raise CallFailed("incomplete_stream", "the answer took longer than it may")
        yield piece


def quoted(body: bytes) -> str:
    """Return the first words of a response, for an error message."""
    if not body:
        return "empty"
    words = " ".join(body[: 4 * _QUOTED].decode(errors="replace").split())
    return f"not a message; it begins with {words[:_QUOTED]!r}"


def _chained(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _joined(pieces: Iterable[bytes]) -> bytes:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > MAX_EVENT_BYTES:
            size = f"JSON of more than {MAX_EVENT_BYTES // 2**20} MB"
            raise CallFailed("unexpected_response", f"the response is {size}")
    return bytes(body)


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        value = json_text.loads(body)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        raise _error(value["error"])
    return _checked(value, quoted(body))


def _checked(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, dict) and value.get("type") == "message":
        content = value.get("content")
        if isinstance(content, list) and all(isinstance(block, dict) for block in content):
            return value
    raise CallFailed("unexpected_response", f"the response is {what}")


def _error(error: Any, *, begun: bool = True) -> CallFailed:
    fields = error if isinstance(error, dict) else {}
    type = str(fields.get("type") or "api_error")
    message = str(fields.get("message") or "no message")
    return CallFailed(type, message, refused=not begun and type in REFUSALS)


def _from_stream(body: Iterable[bytes], head: bytes) -> dict[str, Any]:
    decoder, message = SSEDecoder(), _StreamedMessage()
    for piece in body:
        try:
            events = decoder.feed(piece)
        except InvalidResponse as error:
            raise CallFailed("malformed_event", str(error)) from None
        for data in events:
            event = _event(data)
            if event.get("type") == "error" or "error" in event:
                raise _error(event.get("error"), begun=message.begun)
            try:
                message.apply(event)
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                what = f"{event.get('type')}: {type(error).__name__}: {error}"
                raise CallFailed("malformed_event", what) from None
            if message.complete:
                return _finished(message)
    if message.stop_reason:  # only the last event is missing, which says nothing
        return _finished(message)
    if message.begun:
        raise CallFailed("incomplete_stream", "the stream ended before the answer did")
    raise CallFailed("unexpected_response", f"the response is {quoted(head)}")


def _finished(message: "_StreamedMessage") -> dict[str, Any]:
    try:
        return message.finished()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CallFailed("malformed_event", f"{type(error).__name__}: {error}") from None


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json_text.loads_unrepaired(data)  # a character may be split between two events
    except ValueError:
        event = None
    if isinstance(event, dict):
        return event
    raise CallFailed("malformed_event", f"an event is not a JSON object: {data[:_QUOTED]!r}")


class _StreamedMessage:
    """A message as the events of its stream build it up. Raises the errors of odd types."""

    def __init__(self) -> None:
        self.begun = False
        self.complete = False
        self._message: dict[str, Any] = {}
        #: index of a block, name of a field → the pieces of its text
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self._citations: dict[int, list[Any]] = {}  # index of a block → all its citations

    @property
    def stop_reason(self) -> Any:
        """Why the answer ended; None until then."""
        return self._message.get("stop_reason")

    def apply(self, event: dict[str, Any]) -> None:
        """Add an event; unknown ones are ignored."""
        match event.get("type"):
            case "message_start":
                self._message = dict(event["message"])
                self._message["content"] = list(self._message.get("content") or ())
                self.begun = True
            case "content_block_start":
                if event["index"] != len(self._content):
                    raise ValueError(f"the index is {event['index']}, not {len(self._content)}")
                self._content.append(dict(event["content_block"]))
            case "content_block_delta":
                self._add_delta(event["index"], event["delta"])
            case "message_delta":
                self._add_end(event)
            case "message_stop" if self.begun:
                self.complete = True

    def finished(self) -> dict[str, Any]:
        """Return the message."""
        for (index, name), pieces in self._pieces.items():
            text = "".join(pieces)
            if name != "partial_json":
                self._content[index][name] = text
            elif text:
                self._content[index]["input"] = self._input(text)
        for index, citations in self._citations.items():
            self._content[index]["citations"] = citations
        return _checked(self._message, "not a message")

    @property
    def _content(self) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = self._message["content"]
        return content

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._content[index]
        if delta["type"] == "citations_delta":
            self._citations.setdefault(index, list(block.get("citations") or ()))
            self._citations[index].append(delta["citation"])
            return
        for name, value in delta.items():
            if name == "type":
                continue
            if isinstance(value, str) and name not in _WHOLE:
                self._pieces.setdefault((index, name), [block.get(name) or ""]).append(value)
            elif name == "partial_json":
                raise TypeError(f"partial_json is {value!r}")
            else:
                block[name] = value

    @staticmethod
    def _input(written: str) -> Any:
        try:
            return json_text.loads_unrepaired(written)
        except ValueError:
            return written  # cut by max_tokens: all that there is

    def _add_end(self, event: dict[str, Any]) -> None:
        self._message.update(event["delta"])
        usage = {name: value for name, value in event["usage"].items() if value is not None}
        self._message["usage"] = {**(self._message.get("usage") or {}), **usage}
        # Such as context_management, which is next to the delta.
        self._message.update(
            {name: event[name] for name in event.keys() - {"type", "delta", "usage"}}
        )
