"""States: how they are stored, and which are final."""

import pytest

from penstock.states import ENDED, State


def test_states_are_stored_as_the_words_that_the_scripts_compare() -> None:
    assert [str(state) for state in State] == ["queued", "running", "done", "failed", "canceled"]


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        (State.QUEUED, False),
        (State.RUNNING, False),
        (State.DONE, True),
        (State.FAILED, True),
        (State.CANCELED, True),
    ],
)
def test_a_state_knows_whether_it_is_final(state: State, ended: bool) -> None:
    assert state.ended is ended
    assert (state in ENDED) is ended


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a valid State"):
        State("cancelled")
