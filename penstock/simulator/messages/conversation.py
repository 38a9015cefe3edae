"""Reads a conversation in unvalidated JSON."""

from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]


def messages(body: Body) -> list[dict[str, Any]]:
    """The messages that are JSON objects."""
    found = body.get("messages")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message's content as blocks, in whichever form it was written."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []


def texts(message: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a message's text blocks."""
    for block in blocks(message):
        text = block.get("text")
        if block.get("type") == "text" and isinstance(text, str):
            yield text


def user_texts(body: Body) -> Iterator[str]:
    """Yield every text of every user message, in order."""
    for message in messages(body):
        if message.get("role") == "user":
            yield from texts(message)


def first_user_text(body: Body) -> str:
    """The text that decides the answer.

    It is the first block alone: a client may append a request to continue to the same message, and
    the answer to continue must still be the same one.
    """
    return next(user_texts(body), "")


def last_turn_texts(body: Body) -> list[str]:
    """The texts of the last user messages, without the conversation's first text."""
    ending: list[str] = []
    for message in reversed(messages(body)):
        if message.get("role") == "assistant":
            return ending
        ending[:0] = texts(message)
    return ending[1:]


def prefill(body: Body) -> str | None:
    """The text of a final assistant message that the answer should continue, or None."""
    found = messages(body)
    if not found or found[-1].get("role") != "assistant":
        return None
    last = blocks(found[-1])[-1:]
    if not last or last[0].get("type") != "text":
        return None
    return "".join(texts(found[-1]))


def documents(body: Body) -> Iterator[dict[str, Any]]:
    """Yield every document of the user messages, in order."""
    for message in messages(body):
        if message.get("role") == "user":
            yield from (each for each in blocks(message) if each.get("type") == "document")


def asks_for_compaction(body: Body) -> bool:
    """Whether the request's context management contains an edit that compacts."""
    asked = body.get("context_management")
    edits = asked.get("edits") if isinstance(asked, dict) else None
    return any(str(edit.get("type", "")).startswith("compact_") for edit in edits or ())


def brings_tool_result(body: Body) -> bool:
    """Whether the last message contains a tool's result."""
    found = messages(body)[-1:]
    return any(block.get("type") == "tool_result" for m in found for block in blocks(m))
