"""What the API refuses, and with which message."""

import re
from typing import Any

import pytest

from penstock.simulator.errors import ApiError
from penstock.simulator.messages.validation import (
    check_key,
    check_message,
    check_version,
    parse_json,
)

OLD, NEW = "2023-06-01", "2026-10-21"
HELLO = {"role": "user", "content": "hello"}
BODY: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [HELLO]}
SAID = [HELLO, {"role": "assistant", "content": "so far"}]
NO_PREFILL = (
    "This model does not support assistant message prefill. "
    "The conversation must end with a user message."
)


def without(name: str) -> dict[str, Any]:
    """A body that lacks a field."""
    return {key: value for key, value in BODY.items() if key != name}


def said(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    """A body whose last message has these blocks."""
    return BODY | {"messages": [HELLO, {"role": role, "content": list(blocks)}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (without("model"), "model: Field required"),
    (BODY | {"model": 3}, "model: Input should be a valid string"),
    (BODY | {"model": "gpt-5"}, "model: gpt-5"),
    (without("max_tokens"), "max_tokens: Field required"),
    (BODY | {"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
    (BODY | {"max_tokens": -1}, "max_tokens: must be greater than or equal to 0"),
    (
        BODY | {"max_tokens": 200_000},
        (
            "max_tokens: 200000 > 64000, which is the maximum allowed number of output tokens "
            "for claude-haiku-4-5"
        ),
    ),
    (without("messages"), "messages: Field required"),
    (BODY | {"messages": {}}, "messages: Input should be a valid list"),
    (BODY | {"messages": []}, "messages: at least one message is required"),
    (BODY | {"messages": ["x"]}, "messages.0: Input should be a valid dictionary"),
    (BODY | {"messages": [{"content": "x"}]}, "messages.0.role: Field required"),
    (
        BODY | {"messages": [HELLO | {"role": "tool"}]},
        "messages.0.role: Input should be 'user' or 'assistant'",
    ),
    (
        BODY | {"messages": [{"role": "assistant", "content": "x"}, HELLO]},
        'messages: first message must use the "user" role',
    ),
    (BODY | {"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
    (
        BODY | {"messages": [HELLO | {"content": 5}]},
        "messages.0.content: Input should be a valid string or list",
    ),
    (
        BODY | {"messages": [HELLO | {"content": ""}]},
        (
            "messages.0: all messages must have non-empty content except for the optional final "
            "assistant message"
        ),
    ),
    (said({"text": "x"}), "messages.1.content.0.type: Field required"),
    (said({"type": "text"}), "messages.1.content.0.text.text: Field required"),
    (said({"type": "text", "text": ""}), "messages: text content blocks must be non-empty"),
    (BODY | {"frequency": 1}, "frequency: Extra inputs are not permitted"),
    (BODY | {"stream": "yes"}, "stream: Input should be a valid boolean"),
    (BODY | {"tools": [{"name": "x"}]}, "tools.0.custom.input_schema: Field required"),
    (
        BODY | {"tools": [{"name": "a b", "input_schema": {"type": "object"}}]},
        "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
    ),
    (
        BODY | {"tools": [{"name": "a", "input_schema": {"type": "object"}}] * 2},
        "tools: Tool names must be unique.",
    ),
    (
        BODY | {"stop_sequences": [" "]},
        "stop_sequences: each stop sequence must contain non-whitespace",
    ),
    (
        BODY | {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "`max_tokens` must be greater than `thinking.budget_tokens`",
    ),
    (BODY | {"model": "claude-opus-4-6", "messages": SAID}, NO_PREFILL),
    (BODY | {"model": "claude-sonnet-5", "messages": SAID}, NO_PREFILL),
    (
        said({"type": "text", "text": "so far "}, role="assistant"),
        "messages: final assistant content cannot end with trailing whitespace",
    ),
    (BODY | {"temperature": 0.5}, "temperature: Extra inputs are not permitted"),
    (
        BODY
        | {"messages": [HELLO, {"role": "assistant", "content": [{"type": "document"}]}, HELLO]},
        "messages.1.content.0: document blocks are not permitted in assistant messages",
    ),
]


@pytest.mark.parametrize(("body", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_an_invalid_body_is_refused_with_the_message_of_the_api(
    body: dict[str, Any], message: str
) -> None:
    """Each error names its field."""
    with pytest.raises(ApiError, match=re.escape(message)) as refused:
        check_message(body, NEW)
    assert refused.value.message == message
    assert refused.value.status == (404 if message == "model: gpt-5" else 400)


ACCEPTED: list[dict[str, Any]] = [
    BODY,
    BODY | {"max_tokens": 64_000},
    BODY | {"max_tokens": 0},
    BODY | {"model": "claude-haiku-4-5-20251001", "messages": SAID},
    BODY | {"model": "claude-sonnet-4-5", "messages": SAID},
    BODY | {"model": "claude-opus-5", "max_tokens": 128_000},
    BODY
    | {"model": "claude-opus-5", "messages": [*SAID, {"role": "system", "content": "x"}, HELLO]},
    BODY | {"tools": [{"type": "web_search_20250305", "name": "web_search"}], "stream": True},
    # An assistant's turn that paused ends in a tool's block: no prefill.
    BODY
    | {
        "model": "claude-opus-5",
        "messages": [HELLO, {"role": "assistant", "content": [{"type": "server_tool_use"}]}],
    },
]


@pytest.mark.parametrize("body", ACCEPTED)
def test_a_body_that_the_api_accepts_is_accepted(body: dict[str, Any]) -> None:
    """Nothing is raised."""
    check_message(body, NEW)


def test_sampling_parameters_depend_on_the_api_version() -> None:
    """Unknown in 2026-10-21, limited to their range before."""
    check_message(BODY | {"temperature": 0.7, "top_p": 0.9, "top_k": 4}, OLD)
    with pytest.raises(ApiError, match="temperature: range"):
        check_message(BODY | {"temperature": 2}, OLD)


def test_counting_tokens_needs_no_max_tokens() -> None:
    """All other fields are required."""
    check_message(without("max_tokens"), NEW, counting=True)


def test_max_tokens_has_other_limits_in_a_batch() -> None:
    """At least 1, and up to 300,000 with the beta."""
    with pytest.raises(ApiError, match="greater than or equal to 1"):
        check_message(BODY | {"max_tokens": 0}, NEW, batch=True)
    check_message(BODY | {"max_tokens": 300_000}, NEW, batch=True, betas="output-300k-2026-03-24")


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "anthropic-version: header is required"),
        ({"anthropic-version": "1"}, 'anthropic-version: "1" is not a valid version'),
    ],
)
def test_a_known_api_version_is_required(headers: dict[str, str], message: str) -> None:
    """In the anthropic-version header."""
    with pytest.raises(ApiError, match=re.escape(message)):
        check_version(headers)


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": " "}, {"authorization": "Bearer invalid"}, {"x-api-key": "invalid"}],
)
def test_an_api_key_is_required(headers: dict[str, str]) -> None:
    """In either header."""
    with pytest.raises(ApiError) as refused:
        check_key(headers)
    assert (refused.value.status, refused.value.kind) == (401, "authentication_error")
    check_key({"authorization": "Bearer k"})
    check_key({"x-api-key": "k"})


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"a": "\xff"}'])
def test_a_body_must_be_a_json_object(raw: bytes) -> None:
    """Anything else is a 400."""
    with pytest.raises(ApiError) as refused:
        parse_json(raw)
    assert refused.value.status == 400
