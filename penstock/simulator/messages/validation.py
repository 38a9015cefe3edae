"""What the API refuses, in the API's words.

Written from the API's documentation and observed responses, deliberately without sharing code with
Penstock's own validation: so that the two can disagree.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.simulator import request_json
from penstock.simulator.errors import ApiError, invalid, not_found
from penstock.simulator.messages import conversation
from penstock.simulator.messages.conversation import Body

NEWEST_VERSION = "2026-10-21"
VERSIONS = frozenset({"2023-01-01", "2023-06-01", NEWEST_VERSION})
MAX_MESSAGES = 100_000

_LONG_OUTPUT_BETA = "output-300k-2026-03-24"
_MODEL = re.compile(r"claude-[a-z0-9][a-z0-9.@-]*\Z")
_TAKES_PREFILL = re.compile(r"claude-(opus|sonnet|haiku)-4-5(?!\d)")
_SMALL_OUTPUT = re.compile(r"claude-(opus-4-5|sonnet-4-5|haiku-4-5|sonnet-4-6)(?!\d)")
_SAMPLING = ("temperature", "top_p", "top_k")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}\Z")
_FIELDS = frozenset(
    {
        *("max_tokens", "messages", "model", "cache_control", "container", "diagnostics"),
        *("inference_geo", "metadata", "output_config", "service_tier", "speed"),
        *("stop_sequences", "stream", "system", "thinking", "tool_choice", "tools"),
    }
)
#: Fields that the API knows only with a beta in the header anthropic-beta.
_BETA_FIELDS = frozenset({"context_management", "mcp_servers", "fallbacks", "thread"})


def parse_json(raw: bytes | bytearray) -> Body:
    """The parsed body of a request. Raises `ApiError` unless it is a JSON object."""
    try:
        body = request_json.loads(raw)
    except ValueError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise invalid("Input should be a valid dictionary")
    return body


def check_version(headers: Mapping[str, str]) -> str:
    """The API version of a request. Raises `ApiError` without a known one."""
    version = headers.get("anthropic-version")
    if not version:
        raise invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise invalid(f'anthropic-version: "{version}" is not a valid version')
    return version


def check_key(headers: Mapping[str, str]) -> None:
    """Raise `ApiError` for a request without a usable key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    if not key:
        raise ApiError(
            "authentication_error", "x-api-key header or Authorization: Bearer is required"
        )
    if key == "invalid":
        raise ApiError("authentication_error", "API key is invalid.")


def check_message(
    body: Body, version: str, *, counting: bool = False, batch: bool = False, betas: str = ""
) -> None:
    """Raise `ApiError` for a Messages body that the API would refuse."""
    model = _model(body)
    if not counting:
        _max_tokens(body, model, batch=batch, betas=betas)
    _messages(body)
    _other_fields(body, version, betas)
    _tools(body.get("tools"))
    _by_version(body, version)
    _thinking(body)
    _last_turn(body, model)


def _model(body: Body) -> str:
    model = _required(body, "model")
    if not isinstance(model, str):
        raise invalid("model: Input should be a valid string")
    if not _MODEL.match(model):
        raise not_found(f"model: {model}")
    return model


def _required(body: Mapping[str, Any], name: str, where: str = "") -> Any:
    if name not in body:
        raise invalid(f"{where}{name}: Field required")
    return body[name]


def _max_tokens(body: Body, model: str, *, batch: bool, betas: str) -> None:
    asked = _required(body, "max_tokens")
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise invalid("max_tokens: Input should be a valid integer")
    if asked < (1 if batch else 0):
        raise invalid(f"max_tokens: must be greater than or equal to {1 if batch else 0}")
    most = 64_000 if _SMALL_OUTPUT.match(model) else 128_000
    if batch and _LONG_OUTPUT_BETA in betas:
        most = 300_000
    if asked > most:
        raise invalid(
            f"max_tokens: {asked} > {most}, which is the maximum allowed number of "
            f"output tokens for {model}"
        )


def _messages(body: Body) -> None:
    found = _required(body, "messages")
    if not isinstance(found, list):
        raise invalid("messages: Input should be a valid list")
    if not found:
        raise invalid("messages: at least one message is required")
    if len(found) > MAX_MESSAGES:
        raise invalid(
            f"messages: List should have at most {MAX_MESSAGES} items after validation, "
            f"not {len(found)}"
        )
    for place, message in enumerate(found):
        _message(message, place, last=place == len(found) - 1)


def _message(message: Any, place: int, *, last: bool) -> None:
    where = f"messages.{place}"
    if not isinstance(message, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    role = _required(message, "role", f"{where}.")
    # Since the models of 2026 a system message may come later in a conversation.
    if role not in ("user", "assistant") and not (role == "system" and place):
        raise invalid(f"{where}.role: Input should be 'user' or 'assistant'")
    if place == 0 and role != "user":
        raise invalid('messages: first message must use the "user" role')
    content = _required(message, "content", f"{where}.")
    if not isinstance(content, str | list):
        raise invalid(f"{where}.content: Input should be a valid string or list")
    if not content and not (last and role == "assistant"):
        raise invalid(
            f"{where}: all messages must have non-empty content except for the optional "
            f"final assistant message"
        )
    if isinstance(content, list):
        _blocks(content, f"{where}.content")


def _blocks(content: list[Any], where: str) -> None:
    for place, block in enumerate(content):
        if not isinstance(block, dict):
            raise invalid(f"{where}.{place}: Input should be a valid dictionary")
        kind = _required(block, "type", f"{where}.{place}.")
        if kind != "text":
            continue
        text = _required(block, "text", f"{where}.{place}.text.")
        if not isinstance(text, str):
            raise invalid(f"{where}.{place}.text.text: Input should be a valid string")
        if not text:
            raise invalid("messages: text content blocks must be non-empty")


def _other_fields(body: Body, version: str, betas: str) -> None:
    known = _FIELDS if version == NEWEST_VERSION else _FIELDS.union(_SAMPLING)
    known = known | _BETA_FIELDS if betas else known
    for name in body:
        if name not in known:
            raise invalid(f"{name}: Extra inputs are not permitted")
    for name, kind, words in (
        ("stream", bool, "boolean"),
        ("stop_sequences", list, "list"),
        ("tools", list, "list"),
        ("tool_choice", dict, "dictionary"),
        ("thinking", dict, "dictionary"),
        ("metadata", dict, "dictionary"),
        ("system", str | list, "string or list"),
    ):
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise invalid(f"{name}: Input should be a valid {words}")
    for place, sequence in enumerate(body.get("stop_sequences") or ()):
        if not isinstance(sequence, str):
            raise invalid(f"stop_sequences.{place}: Input should be a valid string")
        if not sequence.strip():
            raise invalid("stop_sequences: each stop sequence must contain non-whitespace")


def _tools(tools: Iterable[Any] | None) -> None:
    seen = set()
    for place, tool in enumerate(tools or ()):
        if not isinstance(tool, dict):
            raise invalid(f"tools.{place}: Input should be a valid dictionary")
        if tool.get("type", "custom") != "custom":
            continue
        name = _required(tool, "name", f"tools.{place}.custom.")
        schema = _required(tool, "input_schema", f"tools.{place}.custom.")
        if not isinstance(name, str) or not _TOOL_NAME.match(name):
            raise invalid(
                f"tools.{place}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
            )
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise invalid(f"tools.{place}.custom.input_schema.type: Field required")
        if name in seen:
            raise invalid("tools: Tool names must be unique.")
        seen.add(name)


def _by_version(body: Body, version: str) -> None:
    """Refuse what version 2026-10-21 removed; sampling is an unknown field by then."""
    if version != NEWEST_VERSION:
        if not 0 <= (body.get("temperature") or 0) <= 1:
            raise invalid("temperature: range: 0..1")
        return
    for place, message in enumerate(conversation.messages(body)):
        for index, block in enumerate(conversation.blocks(message)):
            where = f"messages.{place}.content.{index}"
            if block.get("type") == "document" and message.get("role") == "assistant":
                raise invalid(f"{where}: document blocks are not permitted in assistant messages")
            if block.get("citations") and block["type"] == "text" and message["role"] == "user":
                raise invalid(f"{where}.text.citations: Extra inputs are not permitted")


def _thinking(body: Body) -> None:
    thinking = body.get("thinking") or {}
    if thinking.get("type") != "enabled":
        return
    budget = _required(thinking, "budget_tokens", "thinking.enabled.")
    if not isinstance(budget, int) or budget < 1024:
        raise invalid(
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
        )
    if "max_tokens" in body and body["max_tokens"] <= budget:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`")


def _last_turn(body: Body, model: str) -> None:
    text = conversation.prefill(body)
    if text is None:
        return
    if not _TAKES_PREFILL.match(model):
        raise invalid(
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    if (body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        last = len(body["messages"]) - 1
        raise invalid(
            f"messages.{last}.content.0.type: Expected `thinking` or `redacted_thinking`, but "
            f"found `text`. When `thinking` is enabled, a final `assistant` message must start "
            f"with a thinking block."
        )
    if text != text.rstrip():
        raise invalid("messages: final assistant content cannot end with trailing whitespace")
