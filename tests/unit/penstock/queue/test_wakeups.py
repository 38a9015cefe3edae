"""Wake-ups: what Flower shows of a message, and the chain of a shard."""

import pytest
from celery import Celery

from penstock.queue import names
from penstock.queue.wakeups import chain_from, flower_reprs

ID = "0190a5b0-0000-7000-8000-000000000001"
APP = Celery("test", set_as_current=False)


def test_the_names_of_tasks_and_queues_are_fixed() -> None:
    assert names.STREAM == "penstock.stream"
    assert (
        tuple(f"penstock.batch.{step}" for step in ("create", "poll", "collect", "finish"))
        == names.BATCH_STEPS
    )
    assert names.queue_of(names.STREAM) == "streams"
    assert {names.queue_of(step) for step in names.BATCH_STEPS} == {"batches"}


@pytest.mark.parametrize("first", range(4))
def test_every_step_can_begin_a_chain_of_the_remaining_steps(first: int) -> None:
    chained = chain_from(APP, names.BATCH_STEPS[first], ID, 3, "claude-haiku-4-5")
    tasks = getattr(chained, "tasks", None) or [chained]
    assert [task.task for task in tasks] == list(names.BATCH_STEPS[first:])
    for task in tasks:
        assert task.args == (ID, 3)
        assert task.kwargs == {}
        assert task.immutable
        assert task.options["queue"] == "batches"
        assert task.options["ignore_result"] is True


def test_an_unknown_step_begins_no_chain() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        chain_from(APP, "penstock.batch.nonsense", ID, 0, "m")


def test_a_message_shows_id_kind_and_model() -> None:
    assert flower_reprs("stream", "m", ID) == {
        "argsrepr": f"('{ID}',)",
        "kwargsrepr": "{'kind': 'stream', 'model': 'm'}",
    }
    assert flower_reprs("batch", "m", ID, 0)["argsrepr"] == f"('{ID}', 0)"
