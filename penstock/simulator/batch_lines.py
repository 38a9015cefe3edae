"""One request of a batch: checked when the batch is made, answered when results are read."""

from __future__ import annotations

from typing import Any

import orjson

from . import conversation, sse, validation
from .answers import compose
from .batch_store import Outcome
from .directives import Shape, parse
from .errors import ApiError, invalid


def judge(params: Any, version: str, betas: str) -> Outcome:
    """Return how a request will end."""
    if error_of(params, version, betas) is not None:
        return Outcome.ERRORED
    shape = _shape(params)
    if shape.expired:
        return Outcome.EXPIRED
    return Outcome.CANCELED if shape.canceled else Outcome.SUCCEEDED


def render(line: bytes, outcome: Outcome, version: str, betas: str, *, message_id: str) -> bytes:
    """Return a line of the results."""
    request = orjson.loads(line)
    result: dict[str, Any] = {"type": outcome.name.lower()}
    if outcome is Outcome.SUCCEEDED:
        answer = compose(request["params"], _shape(request["params"]))
        result["message"] = sse.message(answer, message_id, tier="batch")
    elif outcome is Outcome.ERRORED:
        error = error_of(request["params"], version, betas)
        # An envelope inside the result: the code is at result.error.error.type.
        result["error"] = error.envelope(None) if error else None
    return orjson.dumps({"custom_id": request["custom_id"], "result": result}) + b"\n"


def error_of(params: Any, version: str, betas: str) -> ApiError | None:
    """Return what is wrong with a request's params."""
    try:
        _check(params, version, betas)
    except ApiError as error:
        return error
    return None


def _check(params: Any, version: str, betas: str) -> None:
    if not isinstance(params, dict):
        raise invalid("params: Input should be a valid dictionary")
    if params.get("stream"):
        raise invalid('"stream=True" is not supported in the Message Batches API')
    if params.get("speed") == "fast":
        raise invalid('"speed=fast" is not supported in the Message Batches API')
    validation.check_message(params, version, batch=True, betas=betas)
    errored = _shape(params).errored
    if errored:
        raise ApiError(errored)


def _shape(params: dict[str, Any]) -> Shape:
    try:
        return parse(conversation.user_texts(params)).shape
    except ValueError as error:
        raise invalid(str(error)) from error
