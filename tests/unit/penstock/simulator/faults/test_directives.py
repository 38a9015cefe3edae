"""Parsing ``[[sim …]]``."""

import pytest

from penstock.simulator.faults.directives import Shape, parse, strip


def test_brackets_without_sim_are_no_directive() -> None:
    """They are part of the prose."""
    found = parse(["hello", "[[similar]] [[x]] a[[simple]]"])
    assert (found.shape, found.faults) == (Shape(), ())


def test_directives_have_keys_flags_and_quoted_values() -> None:
    """In any of the texts."""
    found = parse(["a [[sim deltas=20  rate=2.5 stamp]] b", 'c [[sim text="a ]] \\"b\\" \\n"]]'])
    assert found.shape == Shape(deltas=20, rate=2.5, stamp=True, text='a ]] "b" \n')


def test_a_later_directive_replaces_an_earlier_one() -> None:
    """A continuation may change what the first text asked for."""
    assert parse(["[[sim deltas=1]]", "[[sim deltas=2]]"]).shape.deltas == 2


def test_a_fault_keeps_the_text_of_its_directive() -> None:
    """It is counted by that text."""
    found = parse(["[[sim status=529 retry_after=3]] [[sim eof_after=last deltas=4]]"])
    assert [text for text, _ in found.faults] == [
        "[[sim status=529 retry_after=3]]",
        "[[sim eof_after=last deltas=4]]",
    ]
    assert found.faults[0][1].retry_after == "3"
    assert found.faults[1][1].eof_after == "last"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[sim delta=1]]", "delta"),
        ("[[sim deltas=many]]", "deltas"),
        ("[[sim disconnect_after]]", "disconnect_after"),
        ("[[sim commit_then_drop]]", "commit_then_drop"),
        ("[[sim deltas = 3]]", "key=value"),
        ("[[sim stall=3]]", "no effect"),
    ],
)
def test_an_invalid_directive_is_an_error(text: str, named: str) -> None:
    """Ignoring it would make the test of its author pass."""
    with pytest.raises(ValueError, match=named):
        parse([text])


def test_strip_removes_directives_and_the_space_around_them() -> None:
    """They do not change the answer."""
    assert strip(" hello [[sim deltas=3]] ") == "hello"
