"""Corrupting the lines of the results."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.simulator.faults.fault import Fault
from penstock.simulator.faults.results import chop, corrupt, gather

no_deadline = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LINES = [b'{"custom_id":"r-%d"}\n' % number for number in range(6)]


def corrupted(**effects: int | bool) -> list[bytes]:
    """Six lines with a fault's effects applied."""
    return list(corrupt(LINES, len(LINES), Fault(**effects)))  # type: ignore[arg-type]


def test_results_without_a_fault_are_unchanged() -> None:
    """So are those of a fault at a line that does not exist."""
    assert corrupted() == corrupted(results_skip=6, results_double=-7, results_end=6) == LINES


def test_line_numbers_of_a_fault_are_those_of_the_original_results() -> None:
    """One effect does not shift another."""
    found = corrupted(results_blank=1, results_foreign=1, results_skip=0, results_double=-1)
    assert found == [b"\n", b'{"custom_id":"foreign"}\n', *LINES[1:], LINES[5]]


def test_a_foreign_line_can_replace_a_line() -> None:
    """So that the number of lines is right."""
    found = corrupted(results_foreign=2, results_skip=2)
    assert len(found) == 6
    assert LINES[2] not in found


def test_results_end_has_nothing_after_it() -> None:
    """Not even a duplicated line."""
    assert corrupted(results_end=2, results_double=0) == LINES[:2]


@no_deadline
@given(st.lists(st.binary(max_size=30)), st.integers(1, 40))
def test_gather_and_chop_keep_the_bytes_of_the_results(lines: list[bytes], size: int) -> None:
    """In chunks of whole lines, or of exactly the given size."""
    whole = b"".join(lines)
    assert b"".join(gather(lines, size)) == whole
    chopped = list(chop(gather(lines, size), size))
    assert b"".join(chopped) == whole
    assert all(len(piece) == size for piece in chopped[:-1])
