"""An epoch never repeats, so a cursor never fits what others have written in place of its event."""

from collections.abc import Iterator
from typing import Any

import pytest

from penstock import events
from penstock.client import Client
from penstock.events import Cursor, Event
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.store import request_scripts
from tests.contract.penstock.store.calls import (
    PREFIX,
    cancel,
    claim,
    claim_by_clock,
    clock,
    release,
    reply,
    submit,
    write,
)
from tests.scripted import BLOCK, START, TIMEOUT_S, delta


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a new request."""
    keys = Keys(PREFIX).request(new_id())
    assert submit(connection, keys) == 1
    return keys


@pytest.fixture
def client(penstock_redis: EmbeddedRedis) -> Iterator[Client]:
    with Client(penstock_redis.url, key_prefix=PREFIX) as client:
        yield client


def log(connection: Any, keys: RequestKeys) -> list[Event]:
    return [events.decode(fields[b"d"]) for _, fields in connection.xrange(keys.log)]


class Disk:
    """What Redis has of a request when it is restarted: all later writes are lost."""

    def __init__(self, connection: Any, keys: RequestKeys) -> None:
        self._connection = connection
        self._names = (keys.meta, keys.log, keys.text, keys.request)
        self._all = (*self._names, keys.lease)
        self._dumps = [connection.dump(name) for name in self._names]

    def restore(self) -> None:
        self._connection.delete(*self._all)
        for name, dump in zip(self._names, self._dumps, strict=True):
            if dump is not None:
                self._connection.restore(name, 100_000, dump)


def epoch_of(found: Any) -> int:
    assert found[0] == b"claimed"
    return int(found[1])


# -- claims ------------------------------------------------------------------------------------


def test_an_epoch_is_the_clock_of_redis(connection: Any, keys: RequestKeys) -> None:
    before = clock(connection)
    epoch = epoch_of(claim_by_clock(connection, keys))
    assert before <= epoch <= clock(connection)
    assert connection.hget(keys.meta, "epoch") == b"%d" % epoch
    assert connection.get(keys.lease) == b"w:%d" % epoch


def test_a_claim_that_redis_lost_has_another_epoch_than_the_next(
    connection: Any, keys: RequestKeys
) -> None:
    disk, epochs = Disk(connection, keys), []
    for worker in ("w1", "w2", "w3"):
        disk.restore()
        now = clock(connection)
        epochs.append(epoch_of(claim_by_clock(connection, keys, worker)))
        assert epochs[-1] >= now
        while clock(connection) == epochs[-1]:
            pass  # no two claims in a ms: a restart takes longer
    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize("ahead_ms", [0, 1, 60_000])
def test_an_epoch_is_higher_than_the_last_even_if_the_clock_went_back(
    connection: Any, keys: RequestKeys, ahead_ms: int
) -> None:
    last = clock(connection) + ahead_ms
    connection.hset(keys.meta, "epoch", last)
    assert epoch_of(claim_by_clock(connection, keys)) > last


def test_a_request_that_an_earlier_version_has_claimed_is_continued(
    connection: Any, keys: RequestKeys
) -> None:
    """It counted claims, so its epochs are small; its entries keep their ids."""
    claim(connection, keys, "old")
    write(connection, keys, 2, 3, epoch=1, worker="old", text="a")
    connection.delete(keys.lease)
    epoch = epoch_of(claim_by_clock(connection, keys, "new"))
    assert epoch > 1_000_000_000_000
    assert write(connection, keys, 5, epoch=epoch, worker="new", text="b")[0] == b"ok"
    assert write(connection, keys, 5, epoch=1, worker="old", text="x") == [b"fenced", epoch]
    assert [str(event.cursor) for event in log(connection, keys)] == [
        *("0-1", "1-2", "1-3", "1-4"),
        f"{epoch}-5",
    ]


def test_a_worker_of_an_earlier_version_takes_over_from_a_later_one(
    connection: Any, keys: RequestKeys
) -> None:
    """During a deployment both versions run; the earlier one adds 1 to the epoch it finds."""
    epoch = epoch_of(claim_by_clock(connection, keys, "new"))
    write(connection, keys, 2, epoch=epoch, worker="new", text="a")
    release(connection, keys, epoch, "new")
    assert claim(connection, keys, "old")[:2] == [b"claimed", epoch + 1]
    assert write(connection, keys, 3, epoch=epoch + 1, worker="old", text="b")[0] == b"ok"
    assert write(connection, keys, 3, epoch=epoch, worker="new") == [b"fenced", epoch + 1]


@pytest.mark.parametrize("first", [2, 3, 5])
def test_a_lost_claim_with_a_higher_epoch_is_fenced_while_another_worker_has_the_lease(
    connection: Any, keys: RequestKeys, first: int
) -> None:
    """After a failover Redis's clock may be that of a machine which is behind."""
    lost = clock(connection) + 60_000
    epoch = epoch_of(claim_by_clock(connection, keys, "w2"))
    write(connection, keys, 2, epoch=epoch, worker="w2", text="b")
    before = connection.hgetall(keys.meta)
    assert write(connection, keys, first, epoch=lost, worker="w1") == [b"fenced", epoch]
    assert connection.hgetall(keys.meta) == before


def test_the_end_of_a_request_that_no_worker_holds_has_an_epoch_of_its_own(
    connection: Any, keys: RequestKeys
) -> None:
    """Redis may have lost the events of the last claim, and readers may have them."""
    epoch = epoch_of(claim_by_clock(connection, keys))
    release(connection, keys, epoch)
    cancel(connection, keys)
    end = log(connection, keys)[-1]
    assert (end.type, end.n) == (events.END, 2)
    assert end.epoch > epoch


# -- readers that return -----------------------------------------------------------------------


def answer(connection: Any, keys: RequestKeys, worker: str, *pieces: str) -> int:
    """Claim a request and write its answer, without the end. Returns the epoch."""
    epoch = epoch_of(claim_by_clock(connection, keys, worker))
    names = [keys.meta, keys.log, keys.lease, keys.events, keys.text, keys.request]
    for n, data in enumerate([START, BLOCK, *map(delta, pieces)], start=2):
        append(connection, keys, worker, epoch, n, data)
    assert connection.exists(*names)
    return epoch


def append(
    connection: Any, keys: RequestKeys, worker: str, epoch: int, n: int, data: Any, final: str = ""
) -> None:
    call = request_scripts.write(
        request_scripts.write_keys(keys, Keys(keys.prefix), typed=False),
        worker=worker,
        epoch=epoch,
        first=n,
        events=[events.encode(epoch, n, data)],
        text=data.get("delta", {}).get("text", ""),
        final_state=final,
    )
    assert reply(connection, call)[0] == b"ok"


@pytest.mark.parametrize("taken", range(2, 8))
@pytest.mark.parametrize("pieces", [("x",), ("x", "y", "z", "w"), tuple("abcdefgh")])
def test_a_reader_that_returns_after_a_loss_never_gets_half_of_each_text(
    connection: Any, client: Client, keys: RequestKeys, taken: int, pieces: tuple[str, ...]
) -> None:
    disk = Disk(connection, keys)
    first = answer(connection, keys, "w1", "Hello ", "big ", "wide ", "world")
    cursor = Cursor(first, taken)
    disk.restore()
    second = answer(connection, keys, "w2", *pieces)
    n = 4 + len(pieces)
    append(connection, keys, "w2", second, n, {"type": events.END, "state": "done"}, "done")
    request = client.messages.request(keys.id)
    found = list(request.events(after=cursor, timeout=TIMEOUT_S))
    assert (found[0].type, found[0].n) == (events.REWIND, 0), "it begins again"
    assert found[1:] == log(connection, keys)
    resumed = client.messages.attach(keys.id, after=str(cursor), timeout=TIMEOUT_S)
    assert resumed.get_final_text() == "".join(pieces)


@pytest.mark.parametrize("of", ["another request", "the future", "the past"])
def test_a_cursor_that_fits_no_entry_begins_again(
    connection: Any, client: Client, keys: RequestKeys, of: str
) -> None:
    epoch = answer(connection, keys, "w", "Hello")
    append(connection, keys, "w", epoch, 5, {"type": events.END, "state": "done"}, "done")
    cursor = {
        "another request": Cursor(epoch - 1_000, 3),
        "the future": Cursor(epoch + 1_000_000, 900),
        "the past": Cursor(1, 3),
    }[of]
    found: list[Event] = list(client.messages.request(keys.id).events(after=cursor))
    assert found[0].type == events.REWIND
    assert found[1:] == log(connection, keys)


def test_a_cursor_before_the_first_event_is_the_beginning(
    connection: Any, client: Client, keys: RequestKeys
) -> None:
    """No event has the number 0, whatever its epoch."""
    epoch = answer(connection, keys, "w", "Hello")
    append(connection, keys, "w", epoch, 5, {"type": events.END, "state": "done"}, "done")
    for cursor in ("0-0", f"{epoch}-0", "7-0"):
        found = list(client.messages.request(keys.id).events(after=cursor))
        assert found == log(connection, keys)
