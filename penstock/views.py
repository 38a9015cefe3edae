"""Attribute access to plain JSON, so that code written for the SDK can read it.

The SDK's typed objects cost an import of about two seconds and 30–140 µs an event, too much for a
reader of many streams. Only the final message is built as a typed object.
"""

import json
from typing import Any, Final

#: Fields that are optional in what the API returns, betas included. The SDK's objects always have
#: them, with the value None if the API left them out.
OPTIONAL_FIELDS: Final = frozenset(
    {
        "cache_creation",
        "cache_creation_input_tokens",
        "cache_miss_reason",
        "cache_read_input_tokens",
        "caller",
        "category",
        "citations",
        "container",
        "context_management",
        "diagnostics",
        "document_title",
        "encrypted_content",
        "error_message",
        "estimated_tokens",
        "explanation",
        "fallback_credit",
        "fallback_credit_token",
        "fallback_has_prefill_claim",
        "file_id",
        "inference_geo",
        "input_tokens",
        "input_transformations",
        "iterations",
        "new_lines",
        "new_start",
        "num_lines",
        "old_lines",
        "old_start",
        "output_tokens_details",
        "page_age",
        "recommended_model",
        "remove_to_redeem",
        "request_id",
        "retrieved_at",
        "server_tool_use",
        "service_tier",
        "signature",
        "skills",
        "speed",
        "start_line",
        "stop_details",
        "stop_reason",
        "stop_sequence",
        "title",
        "tool_changes",
        "toolset_name",
        "total_lines",
    }
)


class View(dict[str, Any]):
    """A dict whose items are also attributes: ``event.delta.text``.

    Optional fields of the API that are absent are None, as in the SDK's objects. The methods that
    convert it are named as in the SDK.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return view(self[name])
        except KeyError:
            if name in OPTIONAL_FIELDS:
                return None
            raise AttributeError(name) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that the API sent, as plain dicts and lists."""
        return self.model_dump()

    def model_dump(self, *, exclude_none: bool = False, **_: Any) -> dict[str, Any]:
        """Return the fields that the API sent; with ``exclude_none`` without those that are None.

        Other options of pydantic's method have no effect: the data is plain JSON already.
        """
        plain: dict[str, Any] = _plain(self, exclude_none=exclude_none)
        return plain

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the fields that the API sent as JSON."""
        return json.dumps(self, indent=indent, ensure_ascii=False)

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """Return `model_dump` as JSON, compact unless ``indent`` is given."""
        separators = (",", ":") if indent is None else None
        value = self.model_dump(**options)
        return json.dumps(value, indent=indent, ensure_ascii=False, separators=separators)


def view(value: Any) -> Any:
    """Return ``value`` with attribute access to every object in it.

    >>> view({"delta": {"text": "Hi"}}).delta.text
    'Hi'
    """
    if isinstance(value, dict):
        return View(value)
    if isinstance(value, list):
        return [view(item) for item in value]
    return value


def _plain(value: Any, *, exclude_none: bool) -> Any:
    """Copy JSON data as plain dicts and lists."""
    if isinstance(value, dict):
        return {
            name: _plain(item, exclude_none=exclude_none)
            for name, item in value.items()
            if not (exclude_none and item is None)
        }
    if isinstance(value, list):
        return [_plain(item, exclude_none=exclude_none) for item in value]
    return value
