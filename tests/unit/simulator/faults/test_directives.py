"""Reading `[[sim …]]`."""

import pytest

from penstock.simulator.faults.directives import Shape, parse, strip


def test_a_text_without_directives_asks_for_nothing() -> None:
    """Brackets alone are prose."""
    found = parse(["hello", "[[similar]] [[x]] a[[simple]]"])
    assert (found.shape, found.faults) == (Shape(), ())


def test_keys_flags_and_quotes_are_read() -> None:
    """In any of the texts."""
    found = parse(["a [[sim deltas=20  rate=2.5 stamp]] b", 'c [[sim text="a ]] \\"b\\" \\n"]]'])
    assert found.shape == Shape(deltas=20, rate=2.5, stamp=True, text='a ]] "b" \n')


def test_the_later_directive_counts() -> None:
    """A continuation may change what the first text asked for."""
    assert parse(["[[sim deltas=1]]", "[[sim deltas=2]]"]).shape.deltas == 2


def test_faults_keep_the_text_that_asked_for_them() -> None:
    """It is what they are counted by."""
    found = parse(["[[sim status=529 retry_after=3]] [[sim eof_after=last deltas=4]]"])
    assert [text for text, _ in found.faults] == [
        "[[sim status=529 retry_after=3]]",
        "[[sim eof_after=last deltas=4]]",
    ]
    assert found.faults[0][1].retry_after == 3
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
def test_a_directive_that_means_nothing_is_an_error(text: str, named: str) -> None:
    """Silence would be taken for a test that passes."""
    with pytest.raises(ValueError, match=named):
        parse([text])


def test_directives_are_left_out_of_the_prompt() -> None:
    """With the space around them."""
    assert strip(" hello [[sim deltas=3]] ") == "hello"
