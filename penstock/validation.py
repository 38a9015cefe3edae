"""Validates a Messages body before anything is enqueued.

Only what the API certainly rejects is rejected here, with the name of the field, so that an error
is reported where it was made and not minutes later by a worker. Everything else passes unchanged,
so that a new parameter of the API works at once.

A few plain checks come first: they accept a valid body in a fifth of the time that pydantic takes.
What they do not accept is validated by pydantic, so that one model decides what is wrong and words
the message.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from penstock.body.fields import BODY_FIELDS, check_params_names
from penstock.body.values import as_object, encode_values, is_omitted, kind_of
from penstock.capabilities import MAX_OUTPUT_TOKENS_IN_A_BATCH, capability
from penstock.errors import InvalidRequest

#: Limits of the API: one Messages request, and the messages in it.
MAX_REQUEST_BYTES: Final = 32_000_000
MAX_MESSAGES: Final = 100_000

#: What the API accepts as ``custom_id`` of a batch request.
CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")

#: The name of a beta. One header lists several, so a name has neither spaces nor commas.
_BETA: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")

#: The headers that a producer may send to the API. API keys are not among them: workers have the
#: keys, and no key is stored in Redis.
_PASSED_ON: Final = re.compile(r"anthropic-[a-z0-9-]+", re.IGNORECASE)

#: The header that names betas, separated by commas.
BETA_HEADER: Final = "anthropic-beta"

_LINE_FIELDS: Final = {"custom_id", "params", "betas"}
#: Fields that need no look at their names or values in a batch.
_PLAIN_PARAMS: Final = BODY_FIELDS - {"stream", "thread"}

#: Numbers from here on are not shown in error messages.
_SHOWN_NUMBERS: Final = 10**30

_ROLES: Final = ("user", "assistant", "system")
#: Maximum characters of a model's name.
MODEL_CHARACTERS: Final = 256

#: Pydantic's names for the two types of ``content`` and ``system``, in the path of an error.
_BRANCHES: Final = ("str", "list[_Block]")


#: Pydantic's types of errors in the words of JSON.
_WORDS: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


class _Block(BaseModel):
    # from_attributes: for the SDK's own blocks, as in `messages=[…, {"content": message.content}]`
    model_config = ConfigDict(extra="allow", from_attributes=True)
    type: StrictStr


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["user", "assistant", "system"]
    content: StrictStr | list[_Block]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: Annotated[StrictStr, Field(min_length=1, max_length=MODEL_CHARACTERS)]
    max_tokens: Annotated[StrictInt, Field(ge=0)]
    messages: Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: StrictStr | list[_Block] | None = None


def check_body(body: Any, *, in_batch: bool = False) -> dict[str, Any]:
    """Return ``body`` unchanged, or raise `InvalidRequest` naming the field.

    Objects of the SDK, other mappings and fields that are "not given" come back as a plain dict.
    """
    if type(body) is dict and _is_plain(body):
        checked: dict[str, Any] = body
    else:
        checked = {name: value for name, value in _as_dict(body).items() if not is_omitted(value)}
        if (problem := _problem(checked)) is not None:
            raise problem
    limit = MAX_OUTPUT_TOKENS_IN_A_BATCH if in_batch else 0
    limit = max(limit, capability(checked["model"]).max_output_tokens)
    if checked["max_tokens"] > limit:
        tokens = checked["max_tokens"]
        shown = tokens if tokens < _SHOWN_NUMBERS else "this number"  # Python cannot print them all
        raise InvalidRequest(
            f"{shown} is more than {checked['model']} can write ({limit})", field="max_tokens"
        )
    if in_batch:
        _check_in_batch(checked)
    return checked


def _check_in_batch(body: dict[str, Any]) -> None:
    if body.get("stream"):
        raise InvalidRequest("a request in a batch cannot be streamed", field="stream")
    if not body["max_tokens"]:
        raise InvalidRequest("must be at least 1 in a batch", field="max_tokens")
    if body.get("thread"):
        raise InvalidRequest("a request in a batch cannot be part of a thread", field="thread")
    check_params_names(body)


def check_thread(body: Mapping[str, Any], on_interrupt: str) -> None:
    """Raise `InvalidRequest` for a request of a message thread that could be sent twice.

    The API accepts each turn of a thread once. A second call, to resume an interrupted answer, is
    refused, so readers would be left with half an answer and an error that hides the cause.
    """
    if body.get("thread") and on_interrupt != "fail":
        raise InvalidRequest(
            "the API accepts each turn of a thread once, so an interrupted answer cannot be "
            'resumed: pass on_interrupt="fail"',
            field="thread",
        )


def encode_body(body: Mapping[str, Any]) -> bytes:
    """Encode a body as JSON. Raises `InvalidRequest` if that is impossible or it is too large."""
    encoded = encode_values(body)
    if len(encoded) > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"{len(encoded):,} bytes is more than the API's limit of {MAX_REQUEST_BYTES:,}"
        )
    return encoded


def check_custom_id(custom_id: Any) -> str:
    """Return ``custom_id``, or raise `InvalidRequest`."""
    if not isinstance(custom_id, str):
        raise InvalidRequest(f"must be text, not {kind_of(custom_id)}", field="custom_id")
    if not CUSTOM_ID.fullmatch(custom_id):
        raise InvalidRequest(
            f"{custom_id[:80]!r} must be 1 to 64 letters, digits, '_' or '-'", field="custom_id"
        )
    return custom_id


def check_timeout(timeout: Any) -> float | None:
    """Return the seconds between two events; None for no limit. Raises `InvalidRequest`."""
    if timeout is None or is_omitted(timeout):
        return None
    if not is_number(timeout) or not timeout >= 0:
        problem = "must be a number of seconds; it bounds the time between two events"
        raise InvalidRequest(problem, field="timeout")
    return float(timeout)


def check_text(text: Any, field: str) -> str:
    """Return text that is stored, or raise `InvalidRequest`."""
    if not isinstance(text, str):
        raise InvalidRequest(f"must be text, not {kind_of(text)}", field=field)
    encode_values({field: text})
    return text


def is_number(value: object) -> bool:
    """Whether ``value`` is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_betas(betas: Any) -> tuple[str, ...]:
    """Return the names of betas, sorted, without duplicates, or raise `InvalidRequest`."""
    if isinstance(betas, str) or not isinstance(betas, Sequence):
        raise InvalidRequest("must be a list of names", field="betas")
    for beta in betas:
        if not is_beta(beta):
            shown = repr(beta[:80]) if isinstance(beta, str) else kind_of(beta)
            raise InvalidRequest(f"{shown} is not the name of a beta", field="betas")
    return tuple(sorted(set(betas)))


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` for a header that cannot be sent to the API."""
    if not isinstance(headers, Mapping):
        raise InvalidRequest(f"must be an object, not {kind_of(headers)}", field="extra_headers")
    for name, value in headers.items():
        if not isinstance(name, str) or not _PASSED_ON.fullmatch(name):
            raise InvalidRequest(
                "only headers that begin with anthropic- are passed on",
                field=f"extra_headers.{name}",
            )
        if not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise InvalidRequest("must be one line of ASCII", field=f"extra_headers.{name}")


def recorded_headers(found: Any) -> dict[str, str]:
    """Return the headers of a record, whose producer may not have checked them.

    Raises `InvalidRequest` for one that cannot be sent to the API, or must not: a record never
    decides which key a worker uses, or which host it calls.
    """
    check_headers(found)
    return {str(name): str(value) for name, value in found.items()}


def is_beta(name: object) -> bool:
    """Whether ``name`` can be in the beta header."""
    return isinstance(name, str) and _BETA.fullmatch(name) is not None


def merged_headers(headers: Mapping[str, str] | None, betas: Any = ()) -> dict[str, str]:
    """Return the headers of a request, with ``betas`` in its beta header, each once.

    Headers whose value is ``NOT_GIVEN`` or ``omit`` are left out. Raises `InvalidRequest`.
    """
    check_headers(given := {} if headers is None else _without_omitted(headers))
    names = [] if betas is None or is_omitted(betas) else list(check_betas(betas))
    merged = {name: value for name, value in given.items() if name.lower() != BETA_HEADER}
    listed = [given[name].split(",") for name in given if name.lower() == BETA_HEADER]
    names = [*(name.strip() for part in listed for name in part), *names]
    if names:
        merged[BETA_HEADER] = ",".join(dict.fromkeys(names))
    return merged


def _without_omitted(headers: Any) -> Any:
    if not isinstance(headers, Mapping):
        return headers
    return {name: value for name, value in headers.items() if not is_omitted(value)}


def check_line(request: Any) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return the custom_id, params and betas of a batch request, or raise `InvalidRequest`.

    ``betas`` is a field of Penstock, not of the API: names for the beta header of its batch.
    """
    if _is_plain_line(request):
        return request["custom_id"], request["params"], ()
    request = _as_dict(request)
    check_format(request)
    if "custom_id" not in request:
        raise InvalidRequest("is required", field="custom_id")
    custom_id = check_custom_id(request["custom_id"])
    if not request.keys() <= _LINE_FIELDS:
        unknown = min(map(str, request.keys() - _LINE_FIELDS))
        raise InvalidRequest("is not a field of a batch request", field=unknown)
    given = "betas" in request and not is_omitted(request["betas"])
    betas = check_betas(request["betas"]) if given else ()
    if "params" not in request:
        raise InvalidRequest("is required", field="params")
    try:
        return custom_id, check_body(request["params"], in_batch=True), betas
    except InvalidRequest as error:
        raise error.inside("params") from None


def check_format(request: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` with advice for a request in another format than the API's."""
    if "params" in request:
        return
    if "body" in request:
        raise InvalidRequest(
            "is a field of OpenAI's batch format: replace method, url and body with params, "
            "the body of a Messages request",
            field="body",
        )
    if request.keys() >= {"model", "messages"}:
        raise InvalidRequest(
            'is the body of a request: write {"custom_id": "a-unique-name", "params": BODY}'
        )


def _as_dict(value: Any) -> dict[str, Any]:
    """Return an object of the SDK or a mapping as a dict. Raises `InvalidRequest`."""
    try:
        fields = as_object(value)
    except ValueError as error:
        problem = str(error).partition("\n")[0]
        raise InvalidRequest(f"cannot be written as JSON: {problem}") from error
    if isinstance(fields, dict):
        return fields
    raise InvalidRequest(f"must be an object, not {kind_of(value)}")


def _is_plain_line(request: Any) -> bool:
    """Whether a request without betas is certainly valid."""
    if type(request) is not dict or len(request) != 2:
        return False
    custom_id, params = request.get("custom_id"), request.get("params")
    return (
        type(custom_id) is str
        and CUSTOM_ID.fullmatch(custom_id) is not None
        and type(params) is dict
        and _is_plain(params)
        and 0 < params["max_tokens"] <= MAX_OUTPUT_TOKENS_IN_A_BATCH
        and params.keys() <= _PLAIN_PARAMS
    )


def _is_plain(body: dict[str, Any]) -> bool:
    """Whether `_Body` certainly accepts a body. Exact types only: the rest is for pydantic."""
    model, max_tokens, messages = body.get("model"), body.get("max_tokens"), body.get("messages")
    system = body.get("system")
    return (
        type(model) is str
        and 0 < len(model) <= MODEL_CHARACTERS
        and type(max_tokens) is int
        and max_tokens >= 0
        and type(messages) is list
        and 0 < len(messages) <= MAX_MESSAGES
        and _are_plain_messages(messages)
        and (system is None or type(system) is str or _are_plain_blocks(system))
    )


def _are_plain_messages(messages: list[Any]) -> bool:
    for message in messages:
        if type(message) is not dict or message.get("role") not in _ROLES:
            return False
        content = message.get("content")
        if type(content) is not str and not _are_plain_blocks(content):
            return False
    return True


def _are_plain_blocks(content: Any) -> bool:
    return type(content) is list and all(
        type(block) is dict and type(block.get("type")) is str for block in content
    )


def _problem(body: Any) -> InvalidRequest | None:
    """The problem that pydantic finds in a body, if any."""
    try:
        _Body.model_validate(body)
    except ValidationError as error:
        return _named(error)
    return None


def _named(error: ValidationError) -> InvalidRequest:
    # In a union, the deepest error belongs to the type that was intended.
    worst = max(error.errors(), key=lambda item: len(item["loc"]))
    path = [str(part) for part in worst["loc"]]
    if path[-1] in _BRANCHES:
        return InvalidRequest("must be text or a list of content blocks", field=".".join(path[:-1]))
    field = ".".join(part for part in path if part not in _BRANCHES)
    if worst["type"] == "missing":
        return InvalidRequest("is required", field=field)
    if words := _WORDS.get(worst["type"]):
        return InvalidRequest(f"must be {words}, not {kind_of(worst['input'])}", field=field)
    return InvalidRequest(worst["msg"][:1].lower() + worst["msg"][1:], field=field)
