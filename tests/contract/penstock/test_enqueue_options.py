"""The options of a request beside the Messages body, as stored in Redis."""

from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest
from anthropic import NOT_GIVEN, omit
from celery import Celery

from penstock.client import Client
from penstock.errors import InvalidRequest
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.queue.names import STREAMS_QUEUE, queue_keys
from penstock.queue.wakeups import transport_options
from penstock.states import State
from tests.connections import redis_of

BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}


@pytest.fixture(params=["penstock", "options"])
def client(request: pytest.FixtureRequest, penstock_redis: EmbeddedRedis) -> Iterator[Client]:
    """A client of an empty database, under the default prefix and under another."""
    url = penstock_redis.url.removesuffix("/0") + "/6"
    with Client(url, key_prefix=request.param) as client:
        redis_of(client).flushdb()
        yield client
        redis_of(client).flushdb()


def lengths(client: Client) -> list[int]:
    """The number of messages in each list of the queue, first to last."""
    lists = queue_keys(STREAMS_QUEUE, client.settings.key_prefix)
    return [int(redis_of(client).llen(name)) for name in lists]


def stored(client: Client, id: str) -> Any:
    return orjson.loads(redis_of(client).get(client.settings.keys.request(id).request))


@pytest.mark.parametrize(
    ("priority", "place"),
    [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2), (8, 2), (9, 3)],
)
def test_a_message_is_in_the_list_of_its_priority(
    client: Client, priority: int, place: int
) -> None:
    handle = client.messages.enqueue(**BODY, priority=priority)
    assert lengths(client) == [int(i == place) for i in range(4)]
    assert handle.record().fields["priority"] == str(priority)


def test_the_default_priority_leaves_room_above_and_below(client: Client) -> None:
    client.messages.enqueue(**BODY)
    assert lengths(client) == [0, 1, 0, 0]


def test_a_request_with_priority_is_taken_first(client: Client) -> None:
    ids = {p: client.messages.enqueue(**BODY, priority=p).id for p in (9, 3, 6, 0, 4)}
    settings = client.settings
    app = Celery(broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.broker_transport_options = transport_options(settings)
    taken = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(STREAMS_QUEUE)
        for _ in ids:
            message = queue.get(timeout=20)
            taken.append(message.headers["id"])
            message.ack()
        queue.close()
    assert taken == [ids[p] for p in (0, 3, 4, 6, 9)]
    assert lengths(client) == [0, 0, 0, 0]


def test_options_are_stored_in_the_record_and_not_in_the_body(client: Client) -> None:
    headers = {"anthropic-beta": "context-1m"}
    handle = client.messages.enqueue(
        **BODY, priority=7, deadline=60, on_interrupt="restart", extra_headers=headers, typed=True
    )
    fields = handle.record().fields
    assert (fields["priority"], fields["on_interrupt"], fields["typed"]) == ("7", "restart", "1")
    assert orjson.loads(fields["headers"]) == headers
    assert int(fields["deadline_ms"]) >= int(fields["created_ms"]) + 59_000
    assert stored(client, handle.id) == BODY


def test_extra_body_fields_are_sent_and_take_precedence_as_in_the_sdk(client: Client) -> None:
    extra = {"brand_new": {"x": 1}, "max_tokens": 7}
    handle = client.messages.enqueue(**BODY, extra_body=extra)
    assert stored(client, handle.id) == {**BODY, **extra}
    assert extra == {"brand_new": {"x": 1}, "max_tokens": 7}


def test_the_model_may_be_in_the_extra_body(client: Client) -> None:
    handle = client.messages.enqueue(**BODY, extra_body={"model": "claude-opus-4-5"})
    assert handle.record().fields["model"] == "claude-opus-4-5"


@pytest.mark.parametrize(
    ("extra", "field"),
    [({"model": ""}, "model"), ({"max_tokens": "9"}, "max_tokens"), ({"messages": []}, "messages")],
)
def test_the_extra_body_is_validated_like_the_body(
    client: Client, extra: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.messages.enqueue(**BODY, extra_body=extra)
    assert caught.value.field == field


@pytest.mark.parametrize("call", ["enqueue", "stream"])
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"priority": 10}, "priority"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"on_interrupt": "retry"}, "on_interrupt"),
        ({"extra_headers": {"x-api-key": "k"}}, "extra_headers.x-api-key"),
        ({"extra_headers": {"anthropic-beta": "a\nb"}}, "extra_headers.anthropic-beta"),
    ],
)
def test_an_invalid_option_leaves_no_trace(
    client: Client, call: str, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        getattr(client.messages, call)(**BODY, **options)
    assert caught.value.field == field
    assert list(redis_of(client).scan_iter()) == []


def test_a_queued_request_is_canceled_at_once_and_its_readers_get_the_event(client: Client) -> None:
    """Its message stays in the queue; the worker that takes it finds that it has ended."""
    handle = client.messages.enqueue(**BODY)
    assert handle.cancel("alice") is State.QUEUED
    assert handle.state is State.CANCELED
    queued, end = handle.events(timeout=20)
    assert (queued.n, end.n) == (1, 2)
    assert end.data == {
        "type": "penstock.end",
        "state": "canceled",
        "stop_reason": None,
        "by": "alice",
    }
    assert redis_of(client).zcard(client.settings.keys.live) == 0
    assert handle.cancel("bob") is State.CANCELED


def headers_of(client: Client, id: str) -> Any:
    return orjson.loads(client.messages.request(id).record().fields.get("headers", "{}"))


def test_betas_are_sent_as_the_header_of_the_api(client: Client) -> None:
    handle = client.messages.enqueue(**BODY, betas=["b-2", "a-1", "b-2"])
    assert headers_of(client, handle.id) == {"anthropic-beta": "a-1,b-2"}
    assert "betas" not in stored(client, handle.id)


def test_betas_are_added_to_those_of_a_header(client: Client) -> None:
    given = {"Anthropic-Beta": "z-9, a-1", "anthropic-version": "2023-06-01"}
    handle = client.messages.enqueue(**BODY, betas=["a-1", "b-2"], extra_headers=given)
    assert headers_of(client, handle.id) == {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "z-9,a-1,b-2",
    }


def test_arguments_that_the_sdk_sends_as_headers_are_headers(client: Client) -> None:
    handle = client.messages.enqueue(**BODY, workspace_id="wrkspc_1", user_profile_id="u_1")
    assert headers_of(client, handle.id) == {
        "anthropic-workspace-id": "wrkspc_1",
        "anthropic-user-profile-id": "u_1",
    }
    assert stored(client, handle.id) == BODY


def test_arguments_that_are_not_given_are_not_stored(client: Client) -> None:
    handle = client.messages.enqueue(
        **BODY,
        system=NOT_GIVEN,
        tools=omit,
        betas=NOT_GIVEN,  # type: ignore[arg-type]
        extra_headers={"anthropic-beta": omit},  # type: ignore[dict-item]
        extra_query=None,
    )
    assert stored(client, handle.id) == BODY
    assert headers_of(client, handle.id) == {}


def test_a_long_integer_is_stored_with_all_its_digits(client: Client) -> None:
    handle = client.messages.enqueue(**BODY, extra_body={"seed": 2**64, "scale": 1.0})
    body = redis_of(client).get(client.settings.keys.request(handle.id).request)
    assert b'"seed":18446744073709551616,"scale":1.0' in body


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"on_interupt": "fail"}, "on_interupt"),
        ({"max_retries": 5}, "max_retries"),
        ({"timeout": 5}, "timeout"),
        ({"extra_query": {"beta": "true"}}, "extra_query"),
        ({"api_key": "sk-ant"}, "api_key"),
        ({"betas": "one"}, "betas"),
        ({"betas": ["a,b"]}, "betas"),
        ({"deadline": "5"}, "deadline"),
        ({"extra_headers": ["x"]}, "extra_headers"),
        ({"extra_body": "x"}, "extra_body"),
        ({"workspace_id": 5}, "extra_headers.anthropic-workspace-id"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"thread": {"type": "create"}, "on_interrupt": "restart"}, "thread"),
        ({"extra_body": {"thread": {"type": "create"}}}, "thread"),
        ({"metadata": {"score": float("nan")}}, "metadata.score"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_honored_is_rejected_by_name(
    client: Client, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.messages.enqueue(**{**BODY, **options})
    assert caught.value.field == field
    assert redis_of(client).keys() == []


def test_a_request_of_a_thread_is_accepted_if_it_is_never_resumed(client: Client) -> None:
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    handle = client.messages.enqueue(**BODY, thread=thread, on_interrupt="fail")
    assert stored(client, handle.id)["thread"] == thread


@pytest.mark.parametrize("timeout", ["5", -1, float("nan"), httpx2.Timeout(5)], ids=repr)
def test_a_timeout_of_a_stream_is_a_number_of_seconds(client: Client, timeout: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.messages.stream(**BODY, timeout=timeout)
    assert caught.value.field == "timeout"
    assert redis_of(client).keys() == []


def test_who_cancels_is_text_that_can_be_stored(client: Client) -> None:
    handle = client.messages.enqueue(**BODY)
    for who in ("half \ud83d", 5):
        with pytest.raises(InvalidRequest) as caught:
            handle.cancel(who)  # type: ignore[arg-type]
        assert caught.value.field == "who"
    assert handle.state is State.QUEUED
