"""Checks on a Messages body before anything is enqueued.

Only what the API is certain to refuse is refused here, by the name of the field: a mistake is
reported where it was made, not minutes later by a worker. Everything else passes unchanged,
so that a parameter that is new to the API works at once.
"""

import re
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from penstock.errors import InvalidRequest
from penstock.models import MAX_OUTPUT_TOKENS_IN_A_BATCH, capability

#: Limits of the API: one Messages request, and the messages in it.
MAX_REQUEST_BYTES: Final = 32_000_000
MAX_MESSAGES: Final = 100_000

#: What the API accepts as ``custom_id`` of a batch request.
CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


#: How pydantic names the two branches of ``content`` and ``system`` in an error's path.
_BRANCHES: Final = ("str", "list[_Block]")


class _Block(BaseModel):
    # from_attributes: the SDK's own blocks, as in `messages=[…, {"content": message.content}]`
    model_config = ConfigDict(extra="allow", from_attributes=True)
    type: StrictStr


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["user", "assistant", "system"]
    content: StrictStr | list[_Block]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: Annotated[StrictStr, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[StrictInt, Field(ge=1)]
    messages: Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: StrictStr | list[_Block] | None = None


def check_body(body: Any, *, in_batch: bool = False) -> dict[str, Any]:
    """Return ``body`` unchanged, or raise `InvalidRequest` naming the field."""
    if not isinstance(body, dict):
        raise InvalidRequest(f"must be an object, not {type(body).__name__}")
    try:
        _Body.model_validate(body)
    except ValidationError as error:
        raise _named(error) from None
    limit = MAX_OUTPUT_TOKENS_IN_A_BATCH if in_batch else 0
    limit = max(limit, capability(body["model"]).max_output_tokens)
    if body["max_tokens"] > limit:
        raise InvalidRequest(
            f"{body['max_tokens']} is more than {body['model']} can write ({limit})",
            field="max_tokens",
        )
    if body.get("stream") and in_batch:
        raise InvalidRequest("a request in a batch cannot be streamed", field="stream")
    return body


def encode_body(body: dict[str, Any]) -> bytes:
    """The body as JSON. Raises `InvalidRequest` if it is too large or holds what JSON cannot."""
    try:
        encoded = orjson.dumps(body, default=_plain)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidRequest(f"cannot be written as JSON: {error}") from None
    if len(encoded) > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"{len(encoded):,} bytes is more than the API's limit of {MAX_REQUEST_BYTES:,}"
        )
    return encoded


def check_custom_id(custom_id: Any) -> str:
    """Return ``custom_id``, or raise `InvalidRequest`."""
    if not isinstance(custom_id, str):
        raise InvalidRequest("a string is required", field="custom_id")
    if not CUSTOM_ID.fullmatch(custom_id):
        raise InvalidRequest(
            f"{custom_id[:80]!r} must be 1 to 64 letters, digits, '_' or '-'", field="custom_id"
        )
    return custom_id


def check_line(request: Any) -> tuple[str, dict[str, Any]]:
    """The custom_id and params of one batch request, or `InvalidRequest` naming the field."""
    if not isinstance(request, dict):
        raise InvalidRequest(f"must be an object, not {type(request).__name__}")
    custom_id = check_custom_id(request.get("custom_id"))
    unknown = request.keys() - {"custom_id", "params"}
    if unknown:
        raise InvalidRequest("is not a field of a batch request", field=min(map(str, unknown)))
    try:
        return custom_id, check_body(request.get("params"), in_batch=True)
    except InvalidRequest as error:
        raise error.inside("params") from None


def _plain(value: Any) -> Any:
    """Objects of the SDK (pydantic models) as the plain data they stand for."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _named(error: ValidationError) -> InvalidRequest:
    # Of the branches of a union the deepest complaint belongs to the one that was meant.
    worst = max(error.errors(), key=lambda item: len(item["loc"]))
    path = [str(part) for part in worst["loc"]]
    if path[-1] in _BRANCHES:
        return InvalidRequest(
            "must be a string or a list of content blocks", field=".".join(path[:-1])
        )
    field = ".".join(part for part in path if part not in _BRANCHES)
    if worst["type"] == "missing":
        return InvalidRequest("is required", field=field)
    if worst["type"] in ("model_type", "model_attributes_type"):
        return InvalidRequest("must be an object", field=field)
    return InvalidRequest(worst["msg"][:1].lower() + worst["msg"][1:], field=field)
