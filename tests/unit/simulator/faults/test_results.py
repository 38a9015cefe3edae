"""Spoiling the lines of the results."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.simulator.faults.fault import Fault
from penstock.simulator.faults.results import chop, corrupt, gather

LINES = [b'{"custom_id":"r-%d"}\n' % number for number in range(6)]


def corrupted(**effects: int | bool) -> list[bytes]:
    """Return six lines as a fault leaves them."""
    return list(corrupt(LINES, len(LINES), Fault(**effects)))  # type: ignore[arg-type]


def test_without_an_effect_nothing_changes() -> None:
    """Nor with a place that is not there."""
    assert corrupted() == corrupted(results_skip=6, results_double=-7, results_end=6) == LINES


def test_places_are_those_of_the_true_results() -> None:
    """One effect does not move another one."""
    found = corrupted(results_blank=1, results_foreign=1, results_skip=0, results_double=-1)
    assert found == [b"\n", b'{"custom_id":"foreign"}\n', *LINES[1:], LINES[5]]


def test_a_line_can_be_replaced() -> None:
    """By a foreign one, so that the number is right."""
    found = corrupted(results_foreign=2, results_skip=2)
    assert len(found) == 6
    assert LINES[2] not in found


def test_an_early_end_is_the_end() -> None:
    """Nothing comes after it."""
    assert corrupted(results_end=2, results_double=0) == LINES[:2]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40))
def test_pieces_hold_the_same_bytes(lines: list[bytes], size: int) -> None:
    """Of whole lines, or of exactly the size that is asked for."""
    whole = b"".join(lines)
    assert b"".join(gather(lines, size)) == whole
    chopped = list(chop(gather(lines, size), size))
    assert b"".join(chopped) == whole
    assert all(len(piece) == size for piece in chopped[:-1])
