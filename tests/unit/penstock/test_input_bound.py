"""The most input tokens that a request can have, whatever its text, images and documents are."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import json_text
from penstock.input_bound import IMAGE_TOKENS, TOOLS_TOKENS, InputBound, input_bound

DATA = base64.b64encode(bytes(300_000)).decode()


def bound(content: Any, **more: Any) -> tuple[InputBound, int]:
    """Return the bound of a request with this content, and its bytes."""
    params = {
        "model": "m",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": content}],
        **more,
    }
    line = json_text.dumps(params)
    return input_bound(params, line), len(line)


def image(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image", "source": source}


def document(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "document", "source": source}


@given(st.text(max_size=200), st.text(max_size=50))
def test_a_text_has_at_most_a_token_for_each_of_its_bytes(text: str, system: str) -> None:
    found, size = bound(text, system=system)
    assert found == (size, 0)
    assert found.tokens >= len(text.encode()) + len(system.encode())


SOURCES: dict[str, dict[str, Any]] = {
    "base64": {"type": "base64", "media_type": "image/png", "data": DATA},
    "url": {"type": "url", "url": "https://example.com/a.png"},
    "file": {"type": "file", "file_id": "file_1"},
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_an_image_counts_the_same_whatever_its_bytes_are(source: dict[str, Any]) -> None:
    found, size = bound([image(source), image(source)])
    assert found == (size + 2 * (IMAGE_TOKENS - len(source.get("data", ""))), 0)
    assert found.tokens > 2 * 4_784


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_document_whose_pages_cannot_be_counted_can_fill_the_context_window(
    source: dict[str, Any],
) -> None:
    found, size = bound([document(source), {"type": "text", "text": "Read it."}])
    assert found == (size - len(source.get("data", "")), 1)


def test_a_document_of_text_counts_as_text() -> None:
    found, size = bound([document({"type": "text", "media_type": "text/plain", "data": "x" * 99})])
    assert found == (size, 0)


def test_images_in_the_results_of_tools_and_in_documents_are_counted() -> None:
    nested = image(SOURCES["base64"])
    result = {"type": "tool_result", "tool_use_id": "t", "content": [nested]}
    found, size = bound([result, document({"type": "content", "content": [nested]})])
    assert found == (size + 2 * (IMAGE_TOKENS - len(DATA)), 0)


def test_the_input_of_a_tool_is_text_even_if_it_looks_like_an_image() -> None:
    use = {"type": "tool_use", "id": "t", "name": "n", "input": image(SOURCES["base64"])}
    found, size = bound([use])
    assert found == (size, 0)


def test_tools_and_writes_to_the_cache_cost_more_than_their_bytes() -> None:
    tools = [{"name": "n", "input_schema": {"type": "object"}}]
    found, size = bound("Hi", tools=tools)
    assert found == (size + TOOLS_TOKENS, 0)
    found, size = bound([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}])
    assert found == (2 * size, 0)
