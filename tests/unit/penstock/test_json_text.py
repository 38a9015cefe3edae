"""The lenient JSON parser reads whatever was paid for, and its writer can write all of it."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.json_text import dumps, loads, loads_cut, loads_unrepaired, whole_characters

HALVES = st.characters(categories=["Cs"])
TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), HALVES), max_size=12)
NUMBERS = st.one_of(st.integers(-(2**80), 2**80), st.floats())
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXTS, inner)),
    max_leaves=12,
)


def as_python(value: Any) -> str:
    """The value in a form in which NaN equals itself."""
    return repr(value)


@given(VALUES)
def test_every_json_value_can_be_written_and_parsed_without_repair(value: Any) -> None:
    # A pair of halves in two characters is the character itself in JSON.
    expected = json.loads(json.dumps(value))
    assert as_python(loads_unrepaired(dumps(value))) == as_python(expected)


@given(VALUES)
def test_a_parsed_value_has_only_whole_characters(value: Any) -> None:
    repr(loads(dumps(value))).encode()
    json.dumps(loads(dumps(value)), ensure_ascii=False).encode()


@given(st.binary())
def test_any_bytes_are_parsed_or_raise_a_value_error(raw: bytes) -> None:
    try:
        loads(raw)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"18446744073709551616", 18446744073709551616),
        (b"[-Infinity, 1e999]", [-math.inf, math.inf]),
        (b'"\\ud83d"', "\ufffd"),
        (b'"\\uDE00\\ud83d"', "\ufffd\ufffd"),
        (b'"\\ud83d\\ude00 \\ud83d"', "\N{GRINNING FACE} \ufffd"),
        (b'{"\\ud83d": 1}', {"\ufffd": 1}),
        (b'"tab\tinside"', "tab\tinside"),
        (b'\xef\xbb\xbf{"bom": true}', {"bom": True}),
        (b'"\xff"', "\ufffd"),
    ],
)
def test_text_that_strict_json_parsers_reject_is_parsed(raw: bytes, value: Any) -> None:
    assert loads(raw) == value


def test_nan_is_parsed_and_written() -> None:
    assert math.isnan(loads(b'{"score": NaN}')["score"])
    assert dumps({"score": math.nan, "none": None}) == b'{"score":NaN,"none":null}'


@pytest.mark.parametrize("raw", [b"[" * 2000 + b"]" * 2000, b'{"a":' * 5000, b'["\\ud83d",' * 3000])
def test_deep_nesting_raises_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"deeply|Expecting|expected"):
        loads(raw)


def test_the_writer_rejects_deep_nesting_and_objects_that_are_not_json() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="deeply"):
        dumps(deep)
    with pytest.raises(TypeError):
        dumps({"data": b"bytes"})


def test_halves_of_one_surrogate_pair_are_joined() -> None:
    assert whole_characters("\ud83d" + "\ude00") == "\N{GRINNING FACE}"
    assert whole_characters("a\ud83db\ude00") == "a\ufffdb\ufffd"
    assert whole_characters("é") == "é"


@given(st.dictionaries(st.text(max_size=3), st.text() | st.lists(st.integers())), st.data())
def test_json_whose_end_is_missing_is_parsed_as_far_as_it_is_valid(
    value: dict[str, Any], data: st.DataObject
) -> None:
    for written in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        cut = data.draw(st.integers(1, len(written)))
        found = loads_cut(written[:cut])
        assert loads_cut(written) == value
        assert all(value[name] == found[name] for name in list(found)[:-1])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('["\\ud83d", "b', ["\ufffd"]),
        ('["\\uDE00x\\ud83d\\ude00", "b', ["\ufffdx\N{GRINNING FACE}"]),
        ('["\\\\ud83d", "b', ["\\ud83d"]),
        ('["\\n\\ud83dx", 1, ', ["\n\ufffdx", 1]),
    ],
)
def test_halves_of_surrogate_pairs_do_not_hide_json_whose_end_is_missing(
    written: str, value: list[Any]
) -> None:
    assert loads_cut(written) == value


def test_a_text_whose_beginning_is_not_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="expected"):
        loads_cut("nonsense")
