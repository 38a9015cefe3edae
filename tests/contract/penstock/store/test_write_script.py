"""The write script against its contract: in one step or not at all, never if fenced."""

import threading
from typing import Any

import orjson
import pytest
import redis

from penstock import events
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from tests.contract.penstock.store.calls import (
    PREFIX,
    Listener,
    cancel,
    claim,
    flush,
    line,
    live,
    outbox,
    release,
    renew,
    submit,
    whole,
    write,
)


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that was submitted, and claimed with epoch 1."""
    keys = Keys(PREFIX).request(new_id())
    submit(connection, keys)
    assert claim(connection, keys)[:2] == [b"claimed", 1]
    return keys


def test_a_write_logs_and_publishes_the_event_and_updates_text_and_record(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    reply = write(connection, keys, 2, 2, text="Hé", ttl=500, typed=True, a=1, b="x")
    assert reply == [b"ok", 3, b""]
    lines = [line(1, 2, "Hé"), line(1, 3, "Hé")]
    assert connection.xrange(keys.log)[1:] == [
        (b"1-2", {b"d": lines[0]}),
        (b"1-3", {b"d": lines[1]}),
    ]
    assert connection.get(keys.text) == "Hé".encode()
    assert connection.hmget(keys.meta, "n", "state", "a", "b") == [b"3", b"running", b"1", b"x"]
    expected = [("events", lines[0]), ("events", lines[1]), ("typed", "Hé".encode())]
    assert listener.received() == expected


def test_plain_text_is_published_only_on_request(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    write(connection, keys, 2, text="a")
    write(connection, keys, 3, typed=True)
    assert [channel for channel, _ in listener.received()] == ["events", "events"]


@pytest.mark.parametrize("name", ["meta", "log", "text", "request"])
def test_a_write_with_a_ttl_renews_every_ttl(connection: Any, keys: RequestKeys, name: str) -> None:
    write(connection, keys, 2, text="a", ttl=500)
    key = getattr(keys, name)
    connection.expire(key, 10)
    write(connection, keys, 3, text="b", ttl=None)
    assert 0 < connection.ttl(key) <= 10
    write(connection, keys, 4, text="c", ttl=700)
    assert 600 < connection.ttl(key) <= 700


def test_the_text_has_a_ttl_from_its_first_character_on(connection: Any, keys: RequestKeys) -> None:
    write(connection, keys, 2, ttl=500)  # message_start
    write(connection, keys, 3, text="Hello", ttl=None)
    assert connection.ttl(keys.text) in range(450, 501)


def test_text_that_replaces_withdrawn_text_has_a_ttl(connection: Any, keys: RequestKeys) -> None:
    write(connection, keys, 2, text="Hello", ttl=500)
    write(connection, keys, 3, text="Hi", fresh=True, ttl=None)
    assert connection.ttl(keys.text) in range(450, 501)


def test_every_key_of_a_running_stream_has_a_ttl(connection: Any, keys: RequestKeys) -> None:
    box = outbox(keys)
    start: dict[str, Any] = {"type": "message_start", "message": {}}
    delta = {"type": "text_delta", "text": "Hello"}
    for data in (start, {"type": "content_block_delta", "index": 0, "delta": delta}):
        box.add(orjson.dumps(data), data)
        flush(connection, box)
    names = (keys.meta, keys.log, keys.text, keys.request)
    assert all(connection.ttl(key) > 0 for key in names)


def test_the_body_expires_with_the_record(connection: Any, keys: RequestKeys) -> None:
    box = outbox(keys, ttl_s=5_000)
    box.add(b'{"type":"message_start"}', {"type": "message_start"})
    flush(connection, box)
    assert connection.ttl(keys.meta) > 4_000
    assert connection.ttl(keys.request) > 4_000


def test_withdrawn_text_is_replaced(connection: Any, keys: RequestKeys, listener: Listener) -> None:
    write(connection, keys, 2, text="Hello")
    write(connection, keys, 3, text="Hi", fresh=True)
    assert connection.get(keys.text) == b"Hi"
    write(connection, keys, 4, text=" there")
    assert connection.get(keys.text) == b"Hi there"
    write(connection, keys, 5, fresh=True)
    assert not connection.exists(keys.text)
    assert len(listener.received()) == 4


def test_a_repeated_write_is_written_once(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    """The reply to the first was lost; the second reports that it is written."""
    for _ in range(3):
        assert write(connection, keys, 2, 3, text="abc", typed=True, a=1) == [b"ok", 4, b""]
    assert connection.xlen(keys.log) == 4
    assert connection.get(keys.text) == b"abc"
    assert len(listener.received()) == 4


def test_a_repeated_last_write_is_acknowledged(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    for _ in range(2):
        assert write(connection, keys, 2, text="a", final="done", ttl=30) == [b"ok", 2, b""]
    assert connection.hget(keys.meta, "state") == b"done"
    assert len(listener.received()) == 1


@pytest.mark.parametrize(("first", "count"), [(3, 1), (4, 5), (1, 2), (2, 0), (9, 0)])
def test_a_gap_or_an_overlap_is_refused_with_the_end_of_the_log(
    connection: Any, keys: RequestKeys, listener: Listener, first: int, count: int
) -> None:
    before = whole(connection, keys)
    reply = write(connection, keys, first, count, text="x", a=1)
    if count == 0:
        assert reply == [b"ok", 1, b""]  # only fields of the record, so there can be no gap
        assert connection.hget(keys.meta, "a") == b"1"
    else:
        assert reply == [b"gap", 1]
        assert whole(connection, keys) == before
    assert listener.received() == []


def test_a_later_claim_fences_the_earlier_writer(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    write(connection, keys, 2, text="a")
    connection.delete(keys.lease)
    assert claim(connection, keys, "w2")[1] == 2
    before = whole(connection, keys)
    for first, count in ((2, 1), (3, 1), (3, 0), (9, 1)):
        reply = write(connection, keys, first, count, text="z", final="done", typed=True)
        assert reply == [b"fenced", 2]
    assert whole(connection, keys) == before
    assert write(connection, keys, 3, epoch=2, worker="w2", text="b") == [b"ok", 3, b""]
    assert connection.get(keys.text) == b"ab"
    assert len(listener.received()) == 2


def test_a_second_worker_with_the_same_epoch_is_fenced(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    """Redis lost the claim of the first, and gave its epoch to the second."""
    write(connection, keys, 2, text="a")
    before = whole(connection, keys)
    for first, count in ((2, 1), (3, 1), (3, 0), (9, 1)):
        reply = write(connection, keys, first, count, worker="w2", text="z", final="done")
        assert reply == [b"fenced", 1]
    assert whole(connection, keys) == before
    assert len(listener.received()) == 1


def test_a_writer_that_released_its_claim_is_fenced(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    write(connection, keys, 2, text="a")
    release(connection, keys)
    before = whole(connection, keys)
    assert write(connection, keys, 3, text="z") == [b"fenced", 1]
    assert write(connection, keys, 3, 0, a=1) == [b"fenced", 1]
    assert whole(connection, keys) == before
    assert len(listener.received()) == 1


@pytest.mark.parametrize("count", [1, 0])
def test_a_claim_that_redis_lost_is_restored_by_its_writer(
    connection: Any, keys: RequestKeys, count: int
) -> None:
    connection.hset(keys.meta, mapping={"state": "queued", "epoch": 0})
    connection.hdel(keys.meta, "worker")
    assert write(connection, keys, 2, count, text="a", a=1) == [b"ok", 1 + count, b""]
    fields = connection.hmget(keys.meta, "state", "epoch", "worker", "a")
    assert fields == [b"running", b"1", b"w", b"1"]
    assert renew(connection, keys) == [b"ok", b"", 1 + count]  # which renews the lease
    connection.delete(keys.lease)
    assert claim(connection, keys, "w2")[1] == 2


def test_the_last_event_is_written_even_if_redis_lost_the_claim(
    connection: Any, keys: RequestKeys
) -> None:
    connection.hset(keys.meta, mapping={"state": "queued", "epoch": 0})
    assert write(connection, keys, 2, final="done", ttl=30) == [b"ok", 2, b""]
    assert connection.hmget(keys.meta, "state", "epoch") == [b"done", b"1"]
    assert not connection.exists(keys.lease)
    assert connection.zscore(live(keys), keys.id) is None


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_a_claim_that_redis_lost_is_not_restored_over_an_end(
    connection: Any, keys: RequestKeys, state: str
) -> None:
    """It was queued again without the claim, and canceled before its worker could write."""
    connection.hset(keys.meta, mapping={"state": state, "epoch": 0})
    before = whole(connection, keys)
    assert write(connection, keys, 2, text="a") == [b"fenced", 0]
    assert whole(connection, keys) == before


@pytest.mark.parametrize("final", ["done", "failed", "canceled"])
def test_nothing_is_written_after_the_last_event(
    connection: Any, keys: RequestKeys, listener: Listener, final: str
) -> None:
    write(connection, keys, 2, final=final, ttl=30)
    before = whole(connection, keys)
    assert write(connection, keys, 3, text="z") == [b"fenced", 1]
    assert write(connection, keys, 3, 0, a=1) == [b"fenced", 1]
    assert whole(connection, keys) == before
    assert len(listener.received()) == 1


def test_the_last_event_ends_the_lease_and_sets_the_retention(
    connection: Any, keys: RequestKeys
) -> None:
    write(connection, keys, 2, text="a", ttl=500)
    write(connection, keys, 3, final="failed", ttl=30, error="{}")
    assert connection.hmget(keys.meta, "state", "n", "error") == [b"failed", b"3", b"{}"]
    assert not connection.exists(keys.lease)
    names = (keys.meta, keys.log, keys.text, keys.request)
    assert all(0 < connection.ttl(key) <= 30 for key in names)


def test_nothing_is_written_to_an_expired_record(
    connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    connection.delete(keys.meta, keys.log, keys.request, keys.lease)
    assert write(connection, keys, 2, text="a", ttl=500) == [b"gone"]
    assert listener.received() == []
    assert not list(connection.scan_iter(f"*{keys.id}*"))


def test_a_write_reports_a_cancel_even_if_it_is_repeated(
    connection: Any, keys: RequestKeys
) -> None:
    write(connection, keys, 2)
    cancel(connection, keys, "alice")
    assert write(connection, keys, 2) == [b"ok", 2, b"alice"]
    assert write(connection, keys, 3) == [b"ok", 3, b"alice"]


def test_a_large_write_is_written_completely(connection: Any, keys: RequestKeys) -> None:
    """More events than fit on Lua's stack, as after a time without Redis."""
    assert write(connection, keys, 2, 20_000) == [b"ok", 20_001, b""]
    assert connection.xlen(keys.log) == 20_001


def test_numbers_stay_exact_in_a_very_long_stream(connection: Any, keys: RequestKeys) -> None:
    connection.hset(keys.meta, "n", 123_456_789_012)
    connection.xadd(keys.log, {"d": "x"}, id="1-123456789012")
    assert write(connection, keys, 123_456_789_013) == [b"ok", 123_456_789_013, b""]
    assert connection.xrevrange(keys.log, count=1)[0][0] == b"1-123456789013"
    assert connection.hget(keys.meta, "n") == b"123456789013"


def test_text_of_any_characters_is_unchanged(connection: Any, keys: RequestKeys) -> None:
    text = "日本\x00\r\n\u2028%s%n 🚰"
    write(connection, keys, 2, text=text, ttl=100)
    assert connection.get(keys.text) == text.encode()
    assert orjson.loads(connection.xrange(keys.log)[1][1][b"d"])["data"]["text"] == text


def test_two_racing_writers_leave_no_gap_in_the_log(
    penstock_redis: EmbeddedRedis, connection: Any, keys: RequestKeys, listener: Listener
) -> None:
    """Each takes the request over from the other repeatedly, and both write at full speed."""
    acknowledged: dict[int, bytes] = {}
    mistakes: list[Any] = []

    def work(name: str) -> None:
        with redis.Redis.from_url(penstock_redis.url) as own:
            for _ in range(40):
                own.delete(keys.lease)
                reply = claim(own, keys, name)
                if reply[0] != b"claimed":
                    continue
                _, epoch, n, _, _ = reply
                for i in range(1, 9):
                    text = f"<{name}{epoch}.{n + i}>"
                    kind = write(own, keys, n + i, epoch=epoch, worker=name, text=text)[0]
                    if kind == b"ok":
                        acknowledged[n + i] = text.encode()
                    elif kind == b"fenced":
                        break
                    else:
                        mistakes.append(kind)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mistakes == []
    log = [events.decode(fields[b"d"]) for _, fields in connection.xrange(keys.log)]
    assert [event.n for event in log] == list(range(1, len(log) + 1))
    assert [event.epoch for event in log] == sorted(event.epoch for event in log)
    assert len({event.epoch for event in log}) > 2, "they never met"
    assert list(range(2, len(log) + 1)) == sorted(acknowledged)
    written = b"".join(acknowledged[n] for n in sorted(acknowledged))
    assert connection.get(keys.text) == written
    assert [events.decode(data).n for _, data in listener.received()] == sorted(acknowledged)
