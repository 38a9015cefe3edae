"""The cancel script against its contract: at once without a lease, else by a message."""

from typing import Any

import pytest

from penstock import events
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.store.scripts import script
from tests.contract.penstock.store.calls import (
    CANCELED,
    PREFIX,
    RETENTION_S,
    Listener,
    cancel,
    claim,
    clock,
    live,
    release,
    renew,
    submit,
    whole,
    write,
)


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that is queued."""
    keys = Keys(PREFIX).request(new_id())
    assert submit(connection, keys) == 1
    return keys


def log(connection: Any, keys: RequestKeys) -> list[events.Event]:
    return [events.decode(fields[b"d"]) for _, fields in connection.xrange(keys.log)]


def test_a_queued_request_that_is_canceled_ends_at_once(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    before = clock(connection)
    assert cancel(connection, keys, "alice") == b"queued"
    after = clock(connection)
    meta = connection.hgetall(keys.meta)
    assert (meta[b"state"], meta[b"n"], meta[b"cancel"]) == (b"canceled", b"2", b"alice")
    assert before <= int(meta[b"ended_ms"]) <= after
    epoch = int(meta[b"epoch"])
    assert before <= epoch <= after
    end = events.wrap(epoch, 2, CANCELED)
    assert connection.xrange(keys.log)[1:] == [(b"%d-2" % epoch, {b"d": end})]
    assert listener.received() == [("events", end)]  # and nothing for workers
    assert connection.zscore(live(keys), keys.id) is None
    assert claim(connection, keys) == [b"ended", b"canceled"]


def test_a_canceled_request_keeps_what_was_received_and_its_end_has_the_next_number(
    connection: Any, keys: RequestKeys
) -> None:
    """It was given back to the queue during its answer."""
    claim(connection, keys)
    write(connection, keys, 2, 3, text="half")
    release(connection, keys, due_ms=30_000)
    assert cancel(connection, keys) == b"queued"
    assert [event.n for event in log(connection, keys)] == [1, 2, 3, 4, 5]
    end = log(connection, keys)[-1]
    assert (end.type, end.n, end.epoch > 1) == (events.END, 5, True)
    assert connection.get(keys.text) == b"half"


def test_all_keys_of_a_canceled_request_expire_together(connection: Any, keys: RequestKeys) -> None:
    """The prompt as well, which is no longer needed."""
    claim(connection, keys)
    write(connection, keys, 2, text="half")
    release(connection, keys)
    cancel(connection, keys)
    names = (keys.meta, keys.log, keys.text, keys.request)
    assert [0 < connection.ttl(name) <= RETENTION_S for name in names] == [True] * 4


def test_a_cancel_of_a_running_request_notifies_its_worker(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    claim(connection, keys)
    before = whole(connection, keys)
    assert cancel(connection, keys, "alice") == b"running"
    before[0][b"cancel"] = b"alice"
    assert whole(connection, keys) == before
    assert listener.received() == [("control", keys.id.encode())]
    assert renew(connection, keys) == [b"ok", b"alice", 1]


def test_a_cancel_of_a_request_with_a_lost_worker_is_left_to_the_next_worker(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    claim(connection, keys)
    connection.delete(keys.lease)
    assert cancel(connection, keys, "alice") == b"running"
    assert listener.received() == [("control", keys.id.encode())]
    assert claim(connection, keys, "w2")[3] == b"alice"


def test_a_queued_request_with_a_lease_is_not_ended_by_the_cancel(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    """Redis lost the claim but has the lease of an earlier one."""
    connection.set(keys.lease, "w:1", px=60_000)
    assert cancel(connection, keys) == b"queued"
    assert connection.hget(keys.meta, "state") == b"queued"
    assert listener.received() == [("control", keys.id.encode())]


@pytest.mark.parametrize("state", ["running", "queued"])
def test_a_cancel_of_waiting_requests_leaves_one_that_a_worker_holds(
    connection: Any, keys: RequestKeys, listener: Listener, state: str
) -> None:
    claim(connection, keys)
    connection.hset(keys.meta, "state", state)
    before = whole(connection, keys)
    assert cancel(connection, keys, only_waiting=True) == b"running"
    assert whole(connection, keys) == before
    assert listener.received() == []


def test_a_cancel_of_waiting_requests_leaves_one_whose_worker_was_lost(
    connection: Any, keys: RequestKeys
) -> None:
    """The next worker resumes it."""
    claim(connection, keys)
    connection.delete(keys.lease)
    assert cancel(connection, keys, only_waiting=True) == b"running"
    assert claim(connection, keys, "w2")[3] == b""


def test_a_cancel_of_waiting_requests_ends_one_that_waits(
    connection: Any, keys: RequestKeys
) -> None:
    assert cancel(connection, keys, "alice", only_waiting=True) == b"queued"
    assert connection.hmget(keys.meta, "state", "cancel") == [b"canceled", b"alice"]


def test_the_first_cancel_is_recorded(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    claim(connection, keys)
    assert cancel(connection, keys, "alice") == b"running"
    assert cancel(connection, keys, "bob") == b"running"
    assert connection.hget(keys.meta, "cancel") == b"alice"
    assert len(listener.received()) == 2  # each wakes: the first wake-up may have been lost


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_a_request_that_has_ended_is_not_marked_as_canceled(
    connection: Any, keys: RequestKeys, listener: Listener, state: str
) -> None:
    connection.hset(keys.meta, "state", state)
    before = whole(connection, keys)
    assert cancel(connection, keys) == state.encode()
    assert whole(connection, keys) == before
    assert listener.received() == []


def test_a_request_is_ended_once_however_often_it_is_canceled(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    assert [cancel(connection, keys) for _ in range(3)] == [b"queued", b"canceled", b"canceled"]
    assert len(listener.received()) == 1


def test_without_an_end_event_a_cancel_only_sets_the_flag(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    """Used for jobs, which are ended by their steps."""
    names = [keys.meta, keys.log, keys.events, Keys(PREFIX).control]
    assert script("cancel")(connection, names, ["alice", "", ""]) == b"queued"
    assert connection.hmget(keys.meta, "state", "cancel") == [b"queued", b"alice"]
    assert listener.received() == [("control", keys.id.encode())]
