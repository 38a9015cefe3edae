"""Events: the envelope around the API's events, and cursors from outside."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import events
from penstock.events import Cursor, Event, decode, encode, wrap

numbers = st.integers(min_value=0, max_value=2**63)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(numbers, numbers, objects)
def test_an_encoded_event_is_decoded_unchanged(epoch: int, n: int, data: dict[str, Any]) -> None:
    line = encode(epoch, n, data)
    assert decode(line) == Event(epoch, n, data)
    assert decode(line.decode()) == Event(epoch, n, data)
    assert b"\n" not in line  # one event, one line
    assert json.loads(line) == {"e": epoch, "n": n, "data": data}


def test_the_apis_bytes_are_wrapped_unchanged() -> None:
    raw = b'{"type" : "ping",  "x":1.50, "s":"\\u00e9\\u2028"}'
    assert wrap(3, 7, raw) == b'{"e":3,"n":7,"data":' + raw + b"}"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b'"half \\ud83d"', "half \ufffd"),
        (b"18446744073709551616", 2**64),
        (b"-Infinity", float("-inf")),
        (b'"\xff"', "\ufffd"),
    ],
)
@pytest.mark.parametrize("kind", [b"content_block_start", b"content_block_delta"])
def test_an_event_that_strict_parsers_reject_is_decoded(
    kind: bytes, written: bytes, value: Any
) -> None:
    if kind == b"content_block_delta" and isinstance(value, int):
        return  # deltas contain no numbers; the faster parser rounds them
    line = b'{"e":1,"n":2,"data":{"type":"%s","x":%s}}' % (kind, written)
    assert decode(line).data["x"] == value


def test_percent_signs_in_an_event_are_plain_text() -> None:
    raw = b'{"type":"x","t":"100%d %n %%s"}'
    assert decode(wrap(1, 2, raw)).data["t"] == "100%d %n %%s"


def test_an_event_has_its_type_and_its_cursor() -> None:
    event = decode(b'{"e":2,"n":9,"data":{"type":"ping"}}')
    assert (event.type, event.cursor) == ("ping", Cursor(2, 9))
    assert Event(1, 1, {}).type == ""


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"e":1,"n":2}',
        b'{"e":1,"data":{}}',
        b'{"n":1,"data":{}}',
        b'{"e":1,"n":2,"data":{}',
    ],
)
def test_text_that_is_not_an_event_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"e":"1","n":2,"data":{}}',
        b'{"e":1,"n":"2","data":{}}',
        b'{"e":1,"n":null,"data":{}}',
        b'{"e":1,"n":2,"data":[]}',
        b'{"e":1,"n":2,"data":"text"}',
    ],
)
def test_an_envelope_with_fields_of_the_wrong_type_is_not_an_event(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        decode(line)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(numbers, numbers)
def test_a_cursor_is_parsed_from_its_own_text(epoch: int, n: int) -> None:
    assert Cursor.parse(str(Cursor(epoch, n))) == Cursor(epoch, n)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1",
        "1-",
        "-1",
        "1--1",
        "1-2-3",
        "+1-2",
        "1-+2",
        " 1-2",
        "1-2 ",
        "1-2\n",
        "1_0-2",
        "0x1-2",
        "1.0-2",
        "\u0661-2",  # Arabic digits: int() takes them
        "1-\u00b2",  # superscript two: isdigit() says yes
        "$",
        "+",
        "(1-1",
        "1" * 5_000 + "-1",  # int() refuses more than 4,300 digits, and slowly
        "1-" + "1" * 5_000,
    ],
)
def test_text_that_is_not_a_cursor_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)


def test_the_error_quotes_no_more_than_a_little_of_hostile_input() -> None:
    with pytest.raises(ValueError, match="not a cursor") as caught:
        Cursor.parse("x" * 1_000_000)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("text", [f"{2**64}-1", f"1-{2**64}", "9" * 19 + "9-" + "1"])
def test_a_cursor_above_the_maximum_of_redis_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)


def test_the_maximum_cursor_of_redis_is_accepted() -> None:
    top = 2**64 - 1
    assert Cursor.parse(f"{top}-{top}") == Cursor(top, top)


def test_cursors_sort_like_the_entries_of_a_log() -> None:
    cursors = [Cursor(1, 10), Cursor(0, 11), Cursor(2, 0), Cursor(1, 9), Cursor()]
    assert sorted(cursors) == [Cursor(), Cursor(0, 11), Cursor(1, 9), Cursor(1, 10), Cursor(2, 0)]


@pytest.mark.parametrize(
    "name",
    [name for name in vars(events) if name.isupper() and name[0] != "_" and name != "OWN_PREFIX"],
)
def test_every_event_type_is_written_or_made_somewhere(name: str) -> None:
    """A constant alone is no event: a task, a client or a script has to use it."""
    root = Path(__file__).resolve().parents[3]
    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("penstock", "tasks", "workers")
        for path in (root / folder).rglob("*.*")
        if path.suffix in {".py", ".lua"} and path.name != "events.py"
    ]
    wanted = (f'"type": events.{name}', getattr(events, name) + '"')
    assert any(each in source for source in sources for each in wanted)
