"""Messages of the queues: only what a wake-up has is left of them."""

import base64
import json
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from penstock.ids import is_id, new_id
from penstock.queue import names
from penstock.queue.wakeups import chain_from, send_stream
from workers.messages import TASKS, MessageRefused, rebuilt

ID = new_id()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def sent(queue: str) -> dict[str, Any]:
    """Return the message that a producer sends, as it is stored."""
    with Celery("test", broker="memory://", set_as_current=False) as app:
        if queue == names.STREAMS_QUEUE:
            send_stream(app, ID, "m", 3)
        else:
            chain_from(app, names.BATCH_CREATE, ID, 2, "m").apply_async()
        with app.connection_for_read() as connection:
            channel: Any = connection.default_channel
            message: dict[str, Any] = channel._get(queue)
            return message


@pytest.mark.parametrize("queue", names.QUEUES)
def test_a_wake_up_of_a_producer_is_delivered(queue: str) -> None:
    message = sent(queue)
    found = rebuilt(message, queue)
    before, after = body_of(message), body_of(found)
    assert before[:2] == after[:2]
    assert found["headers"]["task"] == message["headers"]["task"]
    assert found["headers"]["id"] == message["headers"]["id"]
    assert found["headers"]["kwargsrepr"] == message["headers"]["kwargsrepr"]
    assert found["properties"]["delivery_info"] == {"exchange": "", "routing_key": queue}
    steps = [each["task"] for each in after[2]["chain"] or ()]
    assert steps == [] if queue == names.STREAMS_QUEUE else list(names.BATCH_STEPS[:0:-1])
    assert rebuilt(found, queue)["headers"] == found["headers"]  # as it is delivered again


@given(JSON)
def test_anything_else_is_refused(message: Any) -> None:
    with pytest.raises(MessageRefused):
        rebuilt(message, names.STREAMS_QUEUE)


@given(
    st.dictionaries(
        st.sampled_from(["eta", "expires", "retries", "group", "shadow", "timelimit", "root_id"])
        | st.sampled_from(["argsrepr", "kwargsrepr", "origin", "id", "task", "reply_to"]),
        JSON,
    ),
    st.dictionaries(st.sampled_from(["priority", "delivery_tag", "delivery_info"]), JSON),
    st.dictionaries(st.sampled_from(["callbacks", "errbacks", "chain", "chord"]), JSON),
)
def test_what_is_left_of_a_message_has_known_types(
    headers: dict[str, Any], properties: dict[str, Any], embed: dict[str, Any]
) -> None:
    message = {
        "content-type": "application/json",
        "body": json.dumps([[ID], {}, embed]),
        "headers": {"task": names.STREAM, "id": ID, **headers},
        "properties": properties,
    }
    try:
        found = rebuilt(message, names.STREAMS_QUEUE)
    except MessageRefused:
        return
    assert found["headers"]["task"] in TASKS
    assert is_id(found["headers"]["id"])
    assert 0 <= found["properties"]["priority"] <= 9
    assert body_of(found)[2] == {"callbacks": None, "errbacks": None, "chord": None, "chain": None}
    assert len(json.dumps(found)) < 5_000


def test_a_chain_of_other_tasks_arguments_or_order_is_refused() -> None:
    message = sent(names.BATCHES_QUEUE)
    args, kwargs, embed = body_of(message)
    for change in ({"task": "celery.map"}, {"args": [ID, 3]}, {"options": None}):
        chain = [{**embed["chain"][0], **change}, *embed["chain"][1:]]
        body = json.dumps([args, kwargs, {"chain": chain}]).encode()
        altered = {**message, "body": base64.b64encode(body).decode()}
        with pytest.raises(MessageRefused, match="chain"):
            rebuilt(altered, names.BATCHES_QUEUE)


def body_of(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))
