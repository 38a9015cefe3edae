"""Every value of a body reaches the API unchanged, or is rejected by the name of its field."""

import io
import json
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from anthropic import NOT_GIVEN, omit
from anthropic.types import TextBlock
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import json_text
from penstock.body.values import MAX_NESTING, encode_values, is_omitted, kind_of
from penstock.errors import InvalidRequest

TEXT = st.text(st.characters(), max_size=8)
NUMBERS = st.integers() | st.integers(-(2**80), 2**80) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def refusal(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        encode_values(body)
    str(caught.value).encode()  # it can be printed, whatever the field is called
    assert str(caught.value).isprintable()
    return caught.value


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def as_typed(value: Any) -> str:
    """The value as text that differs for 1, 1.0 and True."""
    return json.dumps(value, sort_keys=True)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
@example({"a": 2**64, "b": [1.0, 1e300, 5e-324, -0.0, 10**30]})
@example({"a": None, "b": [None, "null", {"c": None}]})
@example({"a": float("nan")})
@example({"\ud800": 1})
@example({"a": ["\ude00\ud83d"]})
def test_a_value_is_received_as_it_was_or_rejected_by_field(body: dict[str, Any]) -> None:
    if not _is_json(body):
        assert refusal(body).field
        return
    sent = encode_values(body)
    assert as_typed(json_text.loads(sent)) == as_typed(body)
    sent.decode()


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


class Color(StrEnum):
    RED = "red"


class Kind(str, Enum):  # noqa: UP042 - programs written for older Pythons have these
    TEXT = "text"


class Level(IntEnum):
    LOW = 2**66


@pytest.mark.parametrize("with_long_integer", [False, True], ids=["plain", "copied"])
@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (("a", 1), ["a", 1]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (Color.RED, "red"),
        (Kind.TEXT, "text"),
        (Level.LOW, 2**66),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (TextBlock(type="text", text="ü"), {"type": "text", "text": "ü"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_that_represents_a_value_is_sent_as_that_value(
    value: Any, sent: Any, with_long_integer: bool
) -> None:
    more = {"seed": 2**70} if with_long_integer else {}
    assert json_text.loads(encode_values({"x": value, **more})) == {"x": sent, **more}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "nan is not a number in JSON"),
        (float("-inf"), "-inf is not a number in JSON"),
        ("smile \ud83d", "half a surrogate pair at character 6"),
        ("\ud83d\ude00", "half a surrogate pair at character 0"),
        (b"bytes", '"data" of an object whose "type" is "base64"'),
        (Path("photo.png"), '"data" of an object whose "type" is "base64"'),
        (io.BytesIO(), '"data" of an object whose "type" is "base64"'),
        ({1, 2}, "send a list"),
        (frozenset(), "send a list"),
        ((item for item in [1]), "send a list"),
        (datetime.now(UTC), "value.isoformat()"),
        (date(2026, 1, 1), "value.isoformat()"),
        (Decimal("1.5"), "float(value)"),
        (object(), "cannot be written as JSON: it is of the type object"),
        (1j, "complex"),
        (NOT_GIVEN, "NotGiven"),
        (10**5000, "too many digits"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_json_cannot_express_is_rejected_with_advice(value: Any, words: str) -> None:
    error = refusal({"metadata": {"list": [1, value]}})
    assert error.field == "metadata.list.1"
    assert words in error.problem


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (1, "metadata.1"),
        (None, "metadata.None"),
        (("a",), "metadata.('a',)"),
        ("half \ud83d", "metadata.half \\ud83d"),
        ("line\n\ud83d", "metadata.line\\n\\ud83d"),
    ],
)
def test_a_name_that_json_cannot_express_is_rejected(name: Any, field: str) -> None:
    assert refusal({"metadata": {name: "x"}}).field == field


def test_the_levels_of_a_body_are_limited_to_what_a_worker_can_read() -> None:
    deepest = encode_values({"metadata": nested(MAX_NESTING - 1)})
    assert json_text.loads(deepest)["metadata"]
    assert json_text.loads(encode_values({"seed": 2**70, "metadata": nested(MAX_NESTING - 1)}))
    for levels in (MAX_NESTING, 253, 2_000):
        error = refusal({"metadata": nested(levels)})
        assert error.field == "metadata.0.0.0"
        assert error.problem == "is nested more than 200 levels deep"


def test_many_short_lists_are_not_deep() -> None:
    body: dict[str, Any] = {"messages": [[[]]] * 500}
    assert json.loads(encode_values(body)) == body


def test_a_body_that_contains_itself_is_rejected() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = [loop, loop]
    assert "nested" in refusal({"metadata": loop}).problem


@pytest.mark.parametrize("missing", [NOT_GIVEN, omit], ids=["NOT_GIVEN", "omit"])
def test_a_field_that_is_not_given_is_left_out_at_any_level(missing: Any) -> None:
    body = {"system": missing, "tools": [{"name": "x", "description": missing}], "top_k": None}
    assert json.loads(encode_values(body)) == {"tools": [{"name": "x"}], "top_k": None}


def test_only_the_markers_of_the_sdk_count_as_not_given() -> None:
    omitted = type("Omit", (), {"__module__": "elsewhere"})()
    assert not is_omitted(omitted)
    assert not is_omitted(None)
    assert refusal({"metadata": omitted}).field == "metadata"


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "path", "file", "text file", "buffer"])
def test_a_file_as_base64_data_is_read_and_encoded(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG" if kind != "text file" else b"text")
    files: dict[str, Callable[[], Any]] = {
        "bytes": lambda: b"\x89PNG",
        "bytearray": lambda: bytearray(b"\x89PNG"),
        "path": lambda: path,
        "file": lambda: path.open("rb"),
        "text file": lambda: path.open(encoding="utf-8"),
        "buffer": lambda: io.BytesIO(b"\x89PNG"),
    }
    source = {"type": "base64", "media_type": "image/png", "data": files[kind]()}
    body = {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}
    sent = json.loads(encode_values(body))["messages"][0]["content"][0]["source"]
    expected = "dGV4dA==" if kind == "text file" else "iVBORw=="
    assert sent == {"type": "base64", "media_type": "image/png", "data": expected}
    if hasattr(source["data"], "close"):
        source["data"].close()


def test_a_file_that_cannot_be_read_is_rejected_by_field(tmp_path: Path) -> None:
    error = refusal({"source": {"type": "base64", "data": tmp_path / "missing.png"}})
    assert str(error) == "source.data: the file cannot be read: No such file or directory"
    closed = io.BytesIO()
    closed.close()
    assert refusal({"source": {"type": "base64", "data": closed}}).field == "source.data"


def test_text_as_base64_data_is_sent_unchanged() -> None:
    source = {"type": "base64", "data": "iVBORw==", "seed": 2**70}
    assert json.loads(encode_values({"source": source}))["source"] == source


@pytest.mark.parametrize("names", ["null", "NaN", '"x":null,'])
def test_text_that_looks_like_a_null_is_sent_unchanged(names: str) -> None:
    assert json.loads(encode_values({"system": names})) == {"system": names}


def test_text_is_not_escaped_beside_a_long_integer() -> None:
    assert (
        encode_values({"a": "日本", "b": 2**64}) == '{"a":"日本","b":18446744073709551616}'.encode()
    )


def test_the_kinds_of_values_are_named_in_the_words_of_json() -> None:
    values: list[Any] = [None, True, False, "x", 1, 1.5, {}, MappingProxyType({}), [], (), {1}]
    assert [kind_of(value) for value in values] == [
        "null",
        "true",
        "false",
        "text",
        "a number",
        "a number",
        "an object",
        "an object",
        "a list",
        "a list",
        "set",
    ]
