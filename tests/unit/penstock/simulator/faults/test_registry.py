"""Which requests a fault affects, and how often it fires."""

from typing import Any

import pytest

from penstock.simulator.faults.fault import Fault
from penstock.simulator.faults.registry import ActiveFaults

MESSAGES = ("POST", "/v1/messages")
RESULTS = ("GET", "/v1/messages/batches/msgbatch_1/results")


def active(*specs: dict[str, Any]) -> ActiveFaults:
    """These faults in force."""
    faults = ActiveFaults()
    for spec in specs:
        faults.add(Fault.parse(spec))
    return faults


def test_a_fault_fires_once_by_default() -> None:
    """A retry succeeds."""
    faults = active({"status": 529})
    assert faults.fire(*MESSAGES) == Fault(status=529)
    assert faults.fire(*MESSAGES) is None


def test_times_and_after_choose_the_requests_of_a_fault() -> None:
    """Skip one, affect two, leave the rest; zero: all of them."""
    faults = active({"status": 529, "times": 2, "after": 1})
    assert [bool(faults.fire(*MESSAGES)) for _ in range(5)] == [False, True, True, False, False]
    assert all(map(active({"status": 529, "times": 0}).fire, ["POST"] * 9, ["/v1/messages"] * 9))


def test_limited_faults_fire_in_sequence() -> None:
    """In the order in which they were put in force."""
    faults = active({"status": 529}, {"disconnect_after": 3}, {"status": 500})
    fired = [faults.fire(*MESSAGES) for _ in range(4)]
    assert [f and f.effects for f in fired] == [
        ("status",),
        ("disconnect_after",),
        ("status",),
        None,
    ]


def test_an_unlimited_fault_fires_on_top_of_a_limited_one() -> None:
    """Small chunks all the time, and one cut."""
    faults = active({"chunk": 1, "times": 0}, {"disconnect_after": 0})
    first, second = faults.fire(*MESSAGES), faults.fire(*MESSAGES)
    assert first is not None
    assert first.effects == ("disconnect_after", "chunk")
    assert second is not None
    assert second.effects == ("chunk",)


def test_path_method_and_model_choose_the_requests_of_a_fault() -> None:
    """Others are not affected."""
    faults = active({"status": 500, "path": "/v1/messages/batches/*", "method": "get", "times": 0})
    assert faults.fire(*RESULTS)
    assert not faults.fire(*MESSAGES)
    assert not faults.fire("POST", "/v1/messages/batches/msgbatch_1/cancel")
    by_model = active({"status": 500, "model": "claude-haiku-*", "times": 0})
    assert by_model.fire(*MESSAGES, "claude-haiku-4-5")
    assert not by_model.fire(*MESSAGES, "claude-opus-5")


@pytest.mark.parametrize(
    ("spec", "method", "path"),
    [
        ({"disconnect_after": 1}, *MESSAGES),
        ({"commit_then_drop": True}, "POST", "/v1/messages/batches"),
        ({"commit_then_status": 500}, "POST", "/v1/messages/batches"),
        ({"results_cut": 10}, *RESULTS),
        ({"results_skip": 0, "crlf": True}, *RESULTS),
        ({"status": 500}, "GET", "/v1/models"),
    ],
)
def test_a_fault_without_a_path_waits_for_a_request_it_applies_to(
    spec: dict[str, Any], method: str, path: str
) -> None:
    """Other requests do not use it up."""
    faults = active(spec)
    if "status" not in spec:
        assert not faults.fire("GET", "/v1/messages/batches")
    assert faults.fire(method, path, ended=True)


def test_results_faults_wait_for_an_ended_batch() -> None:
    """A request about a batch in progress does not use them up."""
    faults = active({"results_lag": True}, {"results_end": 3})
    assert not faults.fire("GET", "/v1/messages/batches/msgbatch_1")
    assert not faults.fire(*RESULTS)
    assert faults.fire("GET", "/v1/messages/batches/msgbatch_1", ended=True)
    assert faults.fire(*RESULTS, ended=True) == Fault(results_end=3)


def test_commit_after_s_applies_to_creates_alone() -> None:
    """Even with a status, which alone would affect any request."""
    faults = active({"status": 529, "commit_after_s": 1})
    assert not faults.fire("GET", "/v1/models")
    assert faults.fire("POST", "/v1/messages/batches")


def test_a_directive_is_counted_by_its_prompt() -> None:
    """Two conversations with the same directive are both affected."""
    faults, asked = ActiveFaults(), [("[[sim status=529]]", Fault(status=529))]
    assert faults.fire(*MESSAGES, prompt="a", directives=asked)
    assert not faults.fire(*MESSAGES, prompt="a", directives=asked)
    assert faults.fire(*MESSAGES, prompt="b", directives=asked)
    faults.clear()
    assert faults.fire(*MESSAGES, prompt="a", directives=asked)


def test_faults_in_force_are_listed_with_their_counts() -> None:
    """For a test that asks why nothing happened."""
    faults = active({"disconnect_after": 0, "after": 1})
    faults.fire(*MESSAGES)
    assert faults.as_list() == [
        {"disconnect_after": 0, "times": 1, "after": 1, "matched": 1, "fired": 0}
    ]


@pytest.mark.parametrize(
    ("spec", "named"),
    [({"sttus": 1}, "sttus"), ({"status": "x"}, "status"), ({"times": 2}, "no effect")],
)
def test_an_invalid_fault_is_an_error(spec: dict[str, Any], named: str) -> None:
    """It names the key."""
    with pytest.raises(ValueError, match=named):
        Fault.parse(spec)
