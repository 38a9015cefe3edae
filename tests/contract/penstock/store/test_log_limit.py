"""Long logs: trimmed in steps, exactly, and never silently."""

from typing import Any

import orjson
import pytest

from penstock import events
from penstock.client import Client
from penstock.ids import new_id
from penstock.keys import Keys, RequestKeys
from penstock.local.embedded_redis import EmbeddedRedis
from tests.contract.penstock.store.calls import (
    PREFIX,
    Listener,
    claim,
    flush,
    outbox,
    submit,
    write,
)


@pytest.fixture
def keys(connection: Any) -> RequestKeys:
    """The keys of a request that was submitted, and claimed with epoch 1."""
    keys = Keys(PREFIX).request(new_id())
    submit(connection, keys)
    assert claim(connection, keys)[:2] == [b"claimed", 1]
    return keys


def logged(connection: Any, keys: RequestKeys) -> list[int]:
    """The numbers of the events in the log, which match the record's `base` and `n`."""
    numbers = [events.decode(fields[b"d"]).n for _, fields in connection.xrange(keys.log)]
    base, n = connection.hmget(keys.meta, "base", "n")
    assert numbers == list(range(int(base or 1), int(n) + 1))
    return numbers


def trims(connection: Any, keys: RequestKeys, keep: int, last: int) -> list[tuple[int, int]]:
    """Write events one by one. Returns each event that trimmed the log, with the new base."""
    found, base = [], None
    for n in range(2, last + 1):
        assert write(connection, keys, n, text="x", keep=keep) == [b"ok", n, b""]
        if (now := connection.hget(keys.meta, "base")) != base:
            found.append((n, int(now)))
            base = now
    return found


def test_a_log_is_trimmed_in_steps_to_its_limit(connection: Any, keys: RequestKeys) -> None:
    assert trims(connection, keys, keep=8, last=21) == [(11, 4), (14, 7), (17, 10), (20, 13)]
    assert logged(connection, keys) == list(range(13, 22))


def test_the_steps_are_a_quarter_of_the_limit(connection: Any, keys: RequestKeys) -> None:
    assert trims(connection, keys, keep=100, last=160) == [(126, 27), (152, 53)]
    assert len(logged(connection, keys)) == 108


def test_a_trimmed_log_is_never_shorter_than_its_limit_nor_much_longer(
    connection: Any, keys: RequestKeys
) -> None:
    lengths = []
    for n in range(2, 60):
        write(connection, keys, n, keep=12)
        lengths.append(len(logged(connection, keys)))
    assert lengths[:14] == list(range(2, 16))
    assert (min(lengths[14:]), max(lengths)) == (12, 15)


def test_a_short_log_is_complete_and_has_no_base(connection: Any, keys: RequestKeys) -> None:
    assert trims(connection, keys, keep=8, last=10) == []
    assert logged(connection, keys) == list(range(1, 11))


def test_without_a_limit_nothing_is_trimmed(connection: Any, keys: RequestKeys) -> None:
    write(connection, keys, 2, 5_000)
    assert len(logged(connection, keys)) == 5_001


def test_a_write_with_more_events_than_the_limit_keeps_the_last_ones(
    penstock_redis: EmbeddedRedis, connection: Any, keys: RequestKeys
) -> None:
    listener = Listener(penstock_redis, keys)
    assert write(connection, keys, 2, 50, keep=8) == [b"ok", 51, b""]
    assert logged(connection, keys) == list(range(44, 52))
    assert [events.decode(line).n for _, line in listener.received()] == list(range(2, 52))
    listener.close()


def test_a_repeated_write_trims_once(connection: Any, keys: RequestKeys) -> None:
    for _ in range(3):
        assert write(connection, keys, 2, 12, keep=8) == [b"ok", 13, b""]
        assert logged(connection, keys) == list(range(6, 14))


def test_a_raised_limit_restores_nothing_and_applies_from_then_on(
    connection: Any, keys: RequestKeys
) -> None:
    """The next worker may have different settings."""
    write(connection, keys, 2, 19, keep=8)
    assert logged(connection, keys)[0] == 13
    write(connection, keys, 21, 5, keep=16)
    assert logged(connection, keys)[0] == 13
    write(connection, keys, 26, 7, keep=16)  # 13 to 32 are 20 entries
    assert logged(connection, keys)[0] == 13
    write(connection, keys, 33, keep=16)
    assert logged(connection, keys) == list(range(18, 34))


def test_the_whole_text_is_kept(connection: Any, keys: RequestKeys) -> None:
    for n in range(2, 40):
        write(connection, keys, n, text=f"<{n}>", keep=8)
    assert connection.get(keys.text).decode() == "".join(f"<{n}>" for n in range(2, 40))


def test_a_late_reader_gets_a_snapshot_in_place_of_trimmed_events(
    penstock_redis: EmbeddedRedis, connection: Any, keys: RequestKeys
) -> None:
    box = outbox(keys, log_limit=8)
    for index in range(30):
        data = {"type": "content_block_stop", "index": index}
        box.add(orjson.dumps(data), data)
        flush(connection, box)
    box.end({"state": "done"})
    flush(connection, box)
    connection.set(keys.text, "all of it", ex=100)
    with Client(penstock_redis.url, key_prefix=PREFIX) as client:
        found = list(client.messages.request(keys.id).events(timeout=20))
    assert [event.type for event in found] == [events.SNAPSHOT, events.END]
    assert found[0].data["text"] == "all of it"
    assert [event.n for event in found] == [31, 32]
