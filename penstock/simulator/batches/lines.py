"""One request of a batch: evaluated after the create, answered in the results."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from penstock.simulator import request_json
from penstock.simulator.batches.store import Outcome
from penstock.simulator.errors import NO_CREDIT, ApiError, invalid
from penstock.simulator.faults.directives import Shape, parse
from penstock.simulator.messages import conversation, sse, validation
from penstock.simulator.messages.answers import Answer, compose
from penstock.simulator.messages.block import Block
from penstock.simulator.messages.params_hash import hex_digest, params_hash

_PLAIN = Shape()
#: Bytes of one token where tokens are only estimated.
_TOKEN_BYTES = 4


@dataclass(slots=True)
class RequestLine:
    """A request, what is wrong with it, and what it asks for."""

    custom_id: str
    params: Any
    size: int
    hash: int  #: the hash of its params, see `params_hash`
    shape: Shape = _PLAIN
    error: ApiError | None = None

    @property
    def outcome(self) -> Outcome:
        """How the request ends, unless its batch is canceled or `shape.first` is over."""
        if self.error is not None:
            return Outcome.ERRORED
        if self.shape.expired:
            return Outcome.EXPIRED
        return Outcome.CANCELED if self.shape.canceled else Outcome.SUCCEEDED


def parse_line(raw: bytes, version: str, betas: str) -> RequestLine:
    """Parse a request of a batch from its JSON."""
    request = request_json.loads(raw)
    params = request["params"]
    line = RequestLine(request["custom_id"], params, len(raw), params_hash(params))
    try:
        _check(params, version, betas)
        # Most lines have no directive, and a search for these bytes is cheap.
        if b"[[sim" in raw:
            line.shape = _shape(params)
        line.error = _requested_error(line.shape)
    except ApiError as error:
        line.error = error
    return line


def render_result(
    line: RequestLine,
    outcome: Outcome,
    *,
    message_id: str,
    answer_bytes: int = 0,
    mark: bool = False,
) -> bytes:
    """A line of the results. With ``answer_bytes`` its text has that size and no mark."""
    result: dict[str, Any] = {"type": outcome.name.lower()}
    if outcome is Outcome.SUCCEEDED:
        if answer_bytes and line.shape is _PLAIN:
            return _render_sized(line, message_id, answer_bytes)
        answer = compose(line.params, line.shape, mark=mark)
        result["message"] = sse.message(answer, message_id, tier="batch")
    elif outcome is Outcome.ERRORED and line.error is not None:
        # An error envelope inside the result: its type is at result.error.error.type.
        result["error"] = line.error.envelope(None)
    return orjson.dumps({"custom_id": line.custom_id, "result": result}) + b"\n"


def _render_sized(line: RequestLine, message_id: str, answer_bytes: int) -> bytes:
    """A line made from a template, in a few microseconds instead of a hundred.

    The text begins with the hash of the params, so that a result given to the wrong request shows.
    """
    key = hex_digest(line.hash)[:answer_bytes]
    values = (line.custom_id, message_id, key, str(line.size // _TOKEN_BYTES + 1))
    return _template(line.params["model"], answer_bytes) % tuple(map(str.encode, values))


@lru_cache(maxsize=16)
def _template(model: str, answer_bytes: int) -> bytes:
    """A result with placeholders for custom_id, message id, hash and input tokens."""
    # No model's name contains this character.
    place = "%b"
    filling = ("water " * (answer_bytes // 6 + 1))[: max(0, answer_bytes - 16)]
    answer = Answer(
        model=model,
        blocks=(Block(kind="text", pieces=(place, filling)),),
        stop_reason="end_turn",
        stop_sequence=None,
        input_tokens=0,
        output_tokens=answer_bytes // _TOKEN_BYTES + 1,
    )
    message = sse.message(answer, place, tier="batch")
    message["usage"]["input_tokens"] = place
    result = {"type": "succeeded", "message": message}
    data = orjson.dumps({"custom_id": place, "result": result}) + b"\n"
    return data.replace(b'"input_tokens":"%b"', b'"input_tokens":%b')


def _check(params: Any, version: str, betas: str) -> None:
    if not isinstance(params, dict):
        raise invalid("params: Input should be a valid dictionary")
    if params.get("stream"):
        raise invalid('"stream=True" is not supported in the Message Batches API')
    if params.get("speed") == "fast":
        raise invalid('"speed=fast" is not supported in the Message Batches API')
    validation.check_message(params, version, batch=True, betas=betas)


def _requested_error(shape: Shape) -> ApiError | None:
    """The error that a directive asks for."""
    if shape.no_credit:
        return invalid(NO_CREDIT)
    return ApiError(shape.errored, shape.error_message or "") if shape.errored else None


def _shape(params: dict[str, Any]) -> Shape:
    try:
        return parse(conversation.user_texts(params)).shape
    except ValueError as error:
        raise invalid(str(error)) from error
