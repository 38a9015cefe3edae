"""Plain JSON with attribute access."""

import copy
import json
import pickle

import pytest

from penstock.views import View, view

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


def test_a_view_can_be_copied_and_pickled() -> None:
    seen = view(DATA)
    assert copy.deepcopy(seen) == DATA
    restored = pickle.loads(pickle.dumps(seen))  # noqa: S301 - our own
    assert isinstance(restored, View)
    assert restored.delta.text == "hi"
