"""Names on which Penstock and Celery's transport agree."""

import pytest
from kombu.transport import redis as transport

from penstock.queue.names import QUEUES, celery_prefix, queue_keys

PREFIXES = ["penstock", "blue"]


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_queue_has_the_lists_that_kombu_creates_for_it(queue: str, prefix: str) -> None:
    channel = transport.Channel
    names = [
        celery_prefix(prefix) + (f"{queue}{channel.sep}{step}" if step else queue)
        for step in transport.PRIORITY_STEPS
    ]
    assert queue_keys(queue, prefix) == names


def test_a_message_without_a_priority_is_in_the_list_with_the_queues_name() -> None:
    assert queue_keys("streams", "penstock")[0] == "streams"
    assert queue_keys("streams", "penstock")[1] == "streams\x06\x163"


def test_deployments_have_separate_lists() -> None:
    ours, theirs = (set(queue_keys("streams", prefix)) for prefix in PREFIXES)
    assert not ours & theirs
    assert all(name.startswith("blue:") for name in theirs)
