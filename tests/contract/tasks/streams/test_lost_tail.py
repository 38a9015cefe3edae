"""A Redis restarted with an older copy of a request, and the outbox that restores it."""

from typing import Any

import orjson
import pytest

from penstock import events
from penstock.client import Client
from penstock.events import Event
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from tasks.streams.publish.outbox import Outbox
from tests.contract.penstock.store.calls import (
    PREFIX,
    RETENTION_S,
    Listener,
    cancel,
    claim,
    flush,
    live,
    outbox,
    renew,
    submit,
    whole,
)


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that was submitted, and not claimed yet."""
    keys = Keys(PREFIX).request(new_id())
    assert submit(connection, keys) == 1
    return keys


class Disk:
    """What Redis has on disk: a copy of a request at this moment."""

    def __init__(self, connection: Any, keys: RequestKeys) -> None:
        self._connection, self._keys = connection, keys
        names = (keys.meta, keys.log, keys.text, keys.request, keys.lease)
        self._copies = {n: (connection.dump(n), connection.pttl(n)) for n in names}
        self._score = connection.zscore(live(keys), keys.id)

    def restart(self) -> None:
        """Restart Redis with this copy."""
        for name, (copy, ttl) in self._copies.items():
            self._connection.delete(name)
            if copy is not None:
                self._connection.restore(name, ttl, copy)
        self._connection.zadd(live(self._keys), {self._keys.id: self._score})


def add(box: Outbox, *pieces: str) -> None:
    """Add texts that are not merged with each other."""
    for index, piece in enumerate(pieces):
        delta = {"type": "text_delta", "text": piece}
        data = {"type": "content_block_delta", "index": index, "delta": delta}
        box.add(orjson.dumps(data), data)


def write(connection: Any, box: Outbox, *pieces: str) -> Any:
    """Write each text in a call of its own; returns the last reply."""
    for piece in pieces:
        add(box, piece)
        reply = flush(connection, box)
    return reply


def log(connection: Any, keys: RequestKeys) -> list[Event]:
    """The log, after a check of its numbers."""
    found = []
    for id, fields in connection.xrange(keys.log):
        event = events.decode(fields[b"d"])
        assert id.decode() == str(event.cursor)
        found.append(event)
    assert [event.n for event in found] == list(range(1, 1 + len(found)))
    return found


def test_a_lost_tail_of_the_log_is_written_again(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    box = outbox(keys)
    write(connection, box, "a", "b")
    disk = Disk(connection, keys)
    write(connection, box, "c", "d")
    before = connection.xrange(keys.log)
    disk.restart()
    assert (connection.get(keys.text), connection.xlen(keys.log)) == (b"ab", 3)
    assert write(connection, box, "e") == [b"gap", 3]
    assert flush(connection, box) == [b"ok", 6, b""]
    assert connection.xrange(keys.log)[:-1] == before  # identical entries
    assert len(log(connection, keys)) == 6
    assert connection.get(keys.text) == b"abcde"
    assert connection.hget(keys.meta, "n") == b"6"
    assert write(connection, box, "f") == [b"ok", 7, b""]


def test_a_lost_claim_is_restored_with_all_events_written_under_it(
    connection: Any, keys: RequestKeys
) -> None:
    disk = Disk(connection, keys)
    claim(connection, keys)
    box = outbox(keys)
    box.note(attempts=1)
    write(connection, box, "a", "b")
    before = connection.xrange(keys.log)
    disk.restart()
    assert connection.hmget(keys.meta, "state", "epoch") == [b"queued", b"0"]
    assert renew(connection, keys) == [b"ok", b"", 1]  # does not stop the worker
    assert write(connection, box, "c") == [b"gap", 1]
    assert flush(connection, box) == [b"ok", 4, b""]
    assert connection.xrange(keys.log)[:-1] == before
    assert connection.get(keys.text) == b"abc"
    fields = connection.hmget(keys.meta, "state", "epoch", "worker", "attempts")
    assert fields == [b"running", b"1", b"w", b"1"]
    assert renew(connection, keys) == [b"ok", b"", 4]
    assert connection.get(keys.lease) == b"w:1"
    assert claim(connection, keys, "w2") == [b"leased", b"w:1"]


def test_a_worker_with_nothing_to_write_learns_of_a_lost_tail_when_it_renews(
    connection: Any, keys: RequestKeys
) -> None:
    disk = Disk(connection, keys)
    claim(connection, keys)
    box = outbox(keys)
    write(connection, box, "a", "b")
    before = connection.xrange(keys.log)
    assert not box.check_log_end(renew(connection, keys)[2])
    disk.restart()
    assert box.check_log_end(renew(connection, keys)[2])
    assert flush(connection, box) == [b"ok", 3, b""]
    assert connection.xrange(keys.log) == before
    assert connection.get(keys.text) == b"ab"
    assert connection.hmget(keys.meta, "state", "epoch", "worker") == [b"running", b"1", b"w"]
    assert box.acknowledged
    assert not box.check_log_end(renew(connection, keys)[2])


def test_a_lost_claim_without_events_is_restored(connection: Any, keys: RequestKeys) -> None:
    disk = Disk(connection, keys)
    claim(connection, keys)
    box = outbox(keys)
    disk.restart()
    assert write(connection, box, "a") == [b"ok", 2, b""]
    assert connection.hmget(keys.meta, "state", "epoch") == [b"running", b"1"]


def test_every_key_that_was_written_again_has_a_ttl(connection: Any, keys: RequestKeys) -> None:
    disk = Disk(connection, keys)
    claim(connection, keys)
    box = outbox(keys, ttl_s=5_000)
    write(connection, box, "a", "b")
    disk.restart()
    write(connection, box, "c")
    flush(connection, box)
    names = (keys.meta, keys.log, keys.text, keys.request)
    assert all(4_900 < connection.ttl(name) <= 5_000 for name in names)


def test_rewound_text_stays_discarded_after_a_lost_tail(connection: Any, keys: RequestKeys) -> None:
    claim(connection, keys)
    box = outbox(keys)
    write(connection, box, "Hello")
    disk = Disk(connection, keys)
    write(connection, box, " wor")
    box.rewind(0, 3, left="Hel")
    write(connection, box, "p")
    disk.restart()
    write(connection, box, "!")
    flush(connection, box)
    assert connection.get(keys.text) == b"Help!"
    kinds = [event.type for event in log(connection, keys)[1:]]
    assert kinds == [*2 * ["content_block_delta"], events.REWIND, *2 * ["content_block_delta"]]


def test_the_last_event_is_written_again_if_it_was_lost_before_its_reply(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    box = outbox(keys)
    write(connection, box, "a")
    disk = Disk(connection, keys)
    write(connection, box, "b")
    box.end({"state": "done"}, ended_ms=5)
    call = box.next_call()  # without a reply
    disk.restart()
    assert flush(connection, box) == [b"gap", 2]
    assert box.next_call() is not call
    assert flush(connection, box) == [b"ok", 4, b""]
    assert box.acknowledged
    assert [event.type for event in log(connection, keys)].count(events.END) == 1
    assert log(connection, keys)[-1].type == events.END
    assert connection.hmget(keys.meta, "state", "ended_ms") == [b"done", b"5"]
    assert 0 < connection.ttl(keys.text) <= RETENTION_S
    assert connection.zscore(live(keys), keys.id) is None


def test_the_last_event_stays_last_if_it_is_added_while_a_gap_is_found(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    box = outbox(keys)
    disk = Disk(connection, keys)
    write(connection, box, "a")
    disk.restart()
    add(box, "b")
    box.next_call()
    box.end({"state": "done"})
    while not box.acknowledged:
        flush(connection, box)
    assert not box.lost
    kinds = [event.type for event in log(connection, keys)[1:]]
    assert kinds == [*2 * ["content_block_delta"], events.END]
    assert connection.hget(keys.meta, "state") == b"done"


def test_a_lost_claim_that_another_worker_has_taken_is_not_restored(
    connection: Any, keys: RequestKeys
) -> None:
    disk = Disk(connection, keys)
    claim(connection, keys, "w1")
    first = outbox(keys, worker="w1")
    write(connection, first, "a", "b")
    disk.restart()
    assert claim(connection, keys, "w2")[:2] == [b"claimed", 1]  # the same epoch again
    second = outbox(keys, worker="w2")
    write(connection, second, "x")
    before = whole(connection, keys)
    assert write(connection, first, "c") == [b"fenced", 1]
    assert first.lost
    assert renew(connection, keys, 1, "w1") == [b"fenced"]
    assert whole(connection, keys) == before
    assert connection.get(keys.text) == b"x"


def test_a_request_canceled_while_its_claim_was_lost_has_one_last_event(
    connection: Any, keys: RequestKeys
) -> None:
    disk = Disk(connection, keys)
    claim(connection, keys)
    box = outbox(keys)
    write(connection, box, "a")
    disk.restart()
    assert cancel(connection, keys) == b"queued"
    before = whole(connection, keys)
    epoch = log(connection, keys)[-1].epoch
    assert epoch > box.epoch
    assert write(connection, box, "b") == [b"fenced", epoch]
    assert box.lost
    assert whole(connection, keys) == before
    assert [event.type for event in log(connection, keys)].count(events.END) == 1


def test_a_request_that_redis_lost_entirely_is_not_restored(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    box = outbox(keys)
    write(connection, box, "a")
    connection.delete(keys.meta, keys.log, keys.text, keys.request, keys.lease)
    assert write(connection, box, "b") == [b"gone"]
    assert "expired or was deleted" in box.lost
    assert not list(connection.scan_iter(f"*{keys.id}*"))


def test_a_trimmed_log_that_lost_its_tail_begins_at_its_recorded_base(
    connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    box = outbox(keys, log_limit=8)
    write(connection, box, *"abcdefgh")  # 2 to 9
    disk = Disk(connection, keys)
    write(connection, box, *"ijkl")
    disk.restart()
    write(connection, box, "m")
    flush(connection, box)
    base = int(connection.hget(keys.meta, "base"))
    numbers = [events.decode(fields[b"d"]).n for _, fields in connection.xrange(keys.log)]
    assert numbers == list(range(base, 15))
    assert connection.get(keys.text) == b"abcdefghijklm"


def test_events_written_again_are_published_again_for_readers_that_missed_them(
    penstock_redis: EmbeddedRedis, connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    box = outbox(keys)
    disk = Disk(connection, keys)
    write(connection, box, "a")
    disk.restart()
    listener = Listener(penstock_redis, keys)
    write(connection, box, "b")
    flush(connection, box)
    assert [events.decode(line).n for _, line in listener.received()] == [2, 3]
    listener.close()


def test_a_reader_that_had_all_events_gets_none_twice(
    penstock_redis: EmbeddedRedis, connection: Any, keys: RequestKeys
) -> None:
    claim(connection, keys)
    box = outbox(keys)
    write(connection, box, "a")
    disk = Disk(connection, keys)
    with Client(penstock_redis.url, key_prefix=PREFIX) as client:
        following = client.messages.request(keys.id).events(timeout=20)
        write(connection, box, "b", "c")
        found = [next(following) for _ in range(4)]
        disk.restart()
        write(connection, box, "d")
        flush(connection, box)
        box.end({"state": "done"})
        flush(connection, box)
        found += following
    assert [event.n for event in found] == [1, 2, 3, 4, 5, 6]
    assert [event.data["delta"]["text"] for event in found[1:5]] == ["a", "b", "c", "d"]
