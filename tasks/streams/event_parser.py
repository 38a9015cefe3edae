"""Parses the events of one call, and checks them completely before any of them is used. Pure.

All that the worker and the readers rely on is checked here and nowhere else, so what one answer
contains can harm only itself. Types and fields that are not listed here may be new in the API and
pass unchanged. The published JSON is always strict: whole characters, no ``NaN``.
"""

import math
from typing import Any, Final, NoReturn

import orjson

from penstock import events, json_text
from penstock.streams.blocks import PIECE_FIELDS
from tasks.api.excerpt import error_text, excerpt, excerpt_of_value
from tasks.api.message_stream import INVALID_RESPONSE, StreamInterrupted
from tasks.api.whole_message import events_of
from tasks.streams.surrogates import WaitingHalves

#: An event for readers: its JSON, and the same parsed.
ParsedEvent = tuple[bytes, dict[str, Any]]

_Types = tuple[type, ...]
_TEXT: Final[_Types] = (str,)
_OBJECT: Final[_Types] = (dict,)
_TEXT_OR_NULL: Final[_Types] = (str, type(None))
_OBJECT_OR_NULL: Final[_Types] = (dict, type(None))
_LIST_OR_NULL: Final[_Types] = (list, type(None))

#: Type of event → the fields whose types are known. A field that may be null may also be absent.
_FIELDS: Final[dict[str, dict[str, _Types]]] = {
    "message_start": {
        "message": _OBJECT,
        "message.usage": _OBJECT_OR_NULL,
        "message.content": _LIST_OR_NULL,
        "message.stop_reason": _TEXT_OR_NULL,
    },
    "content_block_start": {
        "index": (int,),
        "content_block": _OBJECT,
        "content_block.type": _TEXT,
    },
    "content_block_delta": {"index": (int,), "delta": _OBJECT, "delta.type": _TEXT},
    "content_block_stop": {"index": (int,)},
    "message_delta": {
        "delta": _OBJECT_OR_NULL,
        "delta.stop_reason": _TEXT_OR_NULL,
        "delta.stop_sequence": _TEXT_OR_NULL,
        "delta.stop_details": _OBJECT_OR_NULL,
        "usage": _OBJECT_OR_NULL,
    },
}
#: The same for each type of block and of delta.
_BLOCK_FIELDS: Final[dict[str, dict[str, _Types]]] = {
    "text": {"content_block.text": _TEXT_OR_NULL, "content_block.citations": _LIST_OR_NULL},
    "thinking": {
        "content_block.thinking": _TEXT_OR_NULL,
        "content_block.signature": _TEXT_OR_NULL,
    },
}
_DELTA_FIELDS: Final[dict[str, dict[str, _Types]]] = {
    **{kind: {f"delta.{field}": _TEXT} for kind, field in PIECE_FIELDS.items()},
    "signature_delta": {"delta.signature": _TEXT},
    "citations_delta": {"delta.citation": _OBJECT},
}
_NAMES: Final = {str: "a text", int: "a block number", dict: "an object", list: "a list"}
#: Events that end what came before them; others, such as pings, may be between two deltas.
_BOUNDARIES: Final = frozenset(
    {"content_block_start", "content_block_stop", "message_delta", "message_stop"}
)
_LARGEST_COUNT: Final = 2**53  # that every JSON parser reads exactly
#: Maximum bytes of the usage that one call reports, many times what the API sends: with each event
#: that reports any, all of it is added up and stored.
USAGE_LIMIT: Final = 16 * 1024


def plain_delta(raw: bytes) -> dict[str, Any] | None:
    """Parse a delta that consists of a piece and nothing else, as nearly all events are.

    None for any other event, and for whatever needs a closer look.
    """
    try:
        data: dict[str, Any] = orjson.loads(raw)
        delta = data["delta"]
        plain = (
            b"\n" not in raw
            and data["type"] == "content_block_delta"
            and type(delta[PIECE_FIELDS[delta["type"]]]) is str
            and type(data["index"]) is int
            and len(delta) == 2
            and len(data) == 3
        )
    except (ValueError, KeyError, TypeError):
        return None
    return data if plain else None


class EventParser:
    """Parses the events of one call."""

    def __init__(self) -> None:
        self._halves = WaitingHalves()

    @property
    def waits(self) -> bool:
        """Whether the first half of a character waits for the second."""
        return bool(self._halves)

    def parse(self, raw: bytes, plain: dict[str, Any] | None = None) -> list[ParsedEvent]:
        """Parse the data of one event; returns it, unless readers have no use for it.

        ``plain``: the result of `plain_delta`. Raises `StreamInterrupted` for an error event and
        for an invalid event.
        """
        if plain is not None and not self._halves:
            return [(raw, plain)]
        return self._parse_fully(raw) if raw.strip() else []

    def _parse_fully(self, raw: bytes) -> list[ParsedEvent]:
        try:
            # One level deeper, as it is in its envelope: readers have to parse it, too.
            data, *more = json_text.loads(b"[" + raw + b"]")
        except ValueError as error:
            deep = "nested too deeply" in str(error)
            invalid("it is nested too deeply" if deep else "it is not JSON", excerpt(raw))
        if not isinstance(data, dict) or more:
            invalid("it is not a JSON object", excerpt(raw))
        kind = data.get("type")
        if reports_error(data):
            raise _reported(data.get("error"))
        if kind == "ping":
            return []
        kind = _checked_type(kind, raw)
        if kind == "message":  # of a gateway that streams nothing but the whole message
            return [each for part in events_of(data) for each in self.parse(part)]
        check(kind, data)
        if not _is_strict(raw):
            data = _finite(data)
            if kind == "content_block_delta":
                self._join_halves(raw, data)
            raw = json_text.dumps(data)
        elif kind == "content_block_delta" and self._halves:
            self._join_halves(raw, data)
            raw = json_text.dumps(data)
        return [*self._given_up(kind, data), (raw, data)]

    def _join_halves(self, raw: bytes, data: dict[str, Any]) -> None:
        """Replace the piece of a delta by one of whole characters."""
        kind = data["delta"]["type"]
        field = PIECE_FIELDS.get(kind)
        if field is not None:
            piece = json_text.loads_unrepaired(raw)["delta"][field]
            data["delta"][field] = self._halves.join((data["index"], kind), piece)

    def _given_up(self, kind: str, data: dict[str, Any]) -> list[ParsedEvent]:
        """Return a delta for each half that can no longer become a character."""
        if not self._halves or kind not in _BOUNDARIES:
            return []
        index = data["index"] if kind == "content_block_stop" else None
        deltas = [
            {
                "type": "content_block_delta",
                "index": place,
                "delta": {"type": delta, PIECE_FIELDS[delta]: replacement},
            }
            for (place, delta), replacement in self._halves.give_up(index)
        ]
        return [(json_text.dumps(delta), delta) for delta in deltas]


def reports_error(data: dict[str, Any]) -> bool:
    """Whether an event reports an error; a gateway's error event may have no type."""
    kind = data.get("type")
    return kind == "error" or (kind is None and bool(data.get("error")))


def _checked_type(kind: Any, raw: bytes) -> str:
    if not isinstance(kind, str):
        invalid("it has no type", excerpt(raw))
    if kind.startswith(events.OWN_PREFIX):
        # Readers would take it for the worker's: for a rewind, or for the end.
        invalid("its type is one of Penstock's own", excerpt(raw))
    return kind


def check(kind: str, data: dict[str, Any]) -> None:
    """Check an event of this type. Raises `StreamInterrupted`, which names the field."""
    _check_fields(kind, data, _FIELDS.get(kind, {}))
    if kind == "content_block_delta":
        _check_fields(kind, data, _DELTA_FIELDS.get(data["delta"]["type"], {}))
    elif kind == "content_block_start":
        _check_fields(kind, data, _BLOCK_FIELDS.get(data["content_block"]["type"], {}))
    elif kind == "message_start":
        _check_usage(f"{kind}.message.usage", data["message"].get("usage"))
    elif kind == "message_delta":
        _check_usage(f"{kind}.usage", data.get("usage"))


def invalid(what: str, shown: str = "") -> NoReturn:
    """Raise the error of an invalid event. ``what`` does not depend on the values in it."""
    message = f"the API sent an invalid event: {what}" + (f" ({shown})" if shown else "")
    raise StreamInterrupted(INVALID_RESPONSE, message, fault=f"{INVALID_RESPONSE}: {what}")


def _check_fields(kind: str, data: dict[str, Any], fields: dict[str, _Types]) -> None:
    for path, types in fields.items():
        value: Any = data
        for name in path.split("."):
            value = value.get(name) if value is not None else None
        # Not isinstance: a JSON true is not a number.
        if type(value) in types and (type(value) is not int or value >= 0):
            continue
        wanted = _NAMES[types[0]] + (" or null" if type(None) in types else "")
        invalid(f"{kind}.{path} is not {wanted}", excerpt_of_value(value))


def _check_usage(path: str, usage: Any) -> None:
    if len(json_text.dumps(usage)) > USAGE_LIMIT:
        invalid(f"{path} has more than {USAGE_LIMIT // 1024} KB")
    _check_counts(path, usage)


def _check_counts(path: str, usage: Any) -> None:
    """Check that token counts can be added up. Other fields, such as a tier, may be anything."""
    for name, value in usage.items() if isinstance(usage, dict) else ():
        where, counts = f"{path}.{name}", name.endswith(("_tokens", "_requests"))
        if type(value) is int or (type(value) is float and value.is_integer()):
            if abs(value) > _LARGEST_COUNT or (counts and value < 0):
                invalid(f"{where} is not a possible number", excerpt_of_value(value))
        elif counts and value is not None:
            invalid(f"{where} is not a number or null", excerpt_of_value(value))
        else:
            for item in value if isinstance(value, list) else [value]:
                _check_counts(where, item)


def _reported(problem: Any) -> StreamInterrupted:
    """The error that an error event reports; a gateway's may have any form."""
    if not isinstance(problem, dict):
        shown = problem if isinstance(problem, str) else excerpt_of_value(problem)
        problem = {"message": shown}
    kind, message = problem.get("type"), problem.get("message")
    if not isinstance(kind, str) or not kind:
        kind, named = "api_error", kind
        if named is not None and not isinstance(message, str):
            message = excerpt_of_value(problem)
    message = error_text(message) if message else "no message"
    return StreamInterrupted(error_text(kind), message)


def _is_strict(raw: bytes) -> bool:
    """Whether every JSON parser reads it, and it is one line."""
    if b"\n" in raw or b"\r" in raw:
        return False
    try:
        orjson.loads(raw)
    except ValueError:
        return False
    return True


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, with null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return value
