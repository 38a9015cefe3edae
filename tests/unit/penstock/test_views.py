"""Plain JSON with attribute access."""

import copy
import json
import pickle
import typing
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent, TextBlock
from anthropic.types.messages import MessageBatchIndividualResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from penstock.views import OPTIONAL_FIELDS, View, view

DATA = {
    "type": "content_block_delta",
    "delta": {"type": "text_delta", "text": "hi"},
    "blocks": [{"a": 1}, [{"b": 2}], "x"],
    "none": None,
}


def test_nested_objects_are_read_by_attribute() -> None:
    seen = view(DATA)
    assert seen.type == "content_block_delta"
    assert seen.delta.text == "hi"
    assert seen.blocks[0].a == 1
    assert seen.blocks[1][0].b == 2
    assert seen.blocks[2] == "x"
    assert seen.none is None


def test_a_view_is_a_dict() -> None:
    seen = view(DATA)
    assert isinstance(seen, dict)
    assert seen == DATA
    assert seen["delta"]["text"] == "hi"
    assert json.loads(json.dumps(seen)) == DATA


@pytest.mark.parametrize("value", [None, 1, 1.5, "text", True])
def test_plain_values_are_returned_unchanged(value: object) -> None:
    assert view(value) is value


def test_a_missing_key_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match=r"^nonsense$"):
        view(DATA).nonsense  # noqa: B018
    assert getattr(view(DATA), "nonsense", "default") == "default"
    assert not hasattr(view(DATA), "text")


def optional_fields(*types: Any) -> set[str]:
    """The names of the optional fields of the SDK's objects in ``types``."""
    found: set[str] = set()
    seen: set[type] = set()

    def visit(kind: Any) -> None:
        for part in typing.get_args(kind):
            visit(part)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
            seen.add(kind)
            for name, field in kind.model_fields.items():
                visit(field.annotation)
                if not field.is_required():
                    found.add(name)

    for kind in types:
        visit(kind)
    return found


def test_every_optional_field_of_the_sdk_is_none_when_absent() -> None:
    fields = optional_fields(Message, RawMessageStreamEvent, MessageBatchIndividualResponse)
    assert {"container", "citations", "server_tool_use"} <= fields
    assert fields - OPTIONAL_FIELDS == {"lines"}  # too general to be None in every object
    assert {"content", "type", "text", "id"}.isdisjoint(OPTIONAL_FIELDS)


def test_an_absent_optional_field_is_none_and_an_unknown_one_is_an_error() -> None:
    message = view({"type": "message", "content": [{"type": "text", "text": "x"}], "usage": {}})
    assert message.container is None
    assert message.stop_reason is None
    assert message.content[0].citations is None
    assert message.usage.server_tool_use is None
    assert "container" not in message
    for unknown in ("contaner", "model_fields", "__length_hint__"):
        assert not hasattr(message, unknown)


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_a_view_is_converted_as_the_object_of_the_sdk(value: Any) -> None:
    data: dict[str, Any] = {"type": "text", "text": "ü", "new": {"value": [value, {"none": None}]}}
    seen, model = view(data), TextBlock.construct(**data)
    assert seen.to_dict() == model.to_dict() == data
    assert type(seen.to_dict()["new"]["value"][1]) is dict
    assert json.loads(seen.to_json()) == json.loads(seen.model_dump_json()) == data
    assert seen.model_dump(mode="json") == data
    assert seen.model_dump(exclude_none=True)["new"]["value"][-1] == {}


def test_a_view_is_written_as_json_with_the_layout_of_the_sdk() -> None:
    data: dict[str, Any] = {"citations": None, "text": "日本", "type": "text"}
    model = TextBlock.construct(**data)
    assert view(data).to_json() == model.to_json()
    assert view(data).model_dump_json() == model.model_dump_json()
    assert view(data).model_dump_json(exclude_none=True) == '{"text":"日本","type":"text"}'


def test_a_view_can_be_copied_and_pickled() -> None:
    seen = view(DATA)
    assert copy.deepcopy(seen) == DATA
    restored = pickle.loads(pickle.dumps(seen))  # noqa: S301 - our own
    assert isinstance(restored, View)
    assert restored.delta.text == "hi"
