"""Readers on a real Redis: every event once, in order, whatever messages are lost.

The tests write the log and publish by hand, so that they can lose what they like.
"""

import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from penstock import events
from penstock.client import Client
from penstock.errors import NotFound
from penstock.events import Cursor, Event
from penstock.ids import new_id
from penstock.testing import wait_until
from tests.connections import redis_of


class Writer:
    """Writes a record and its log as the write script does, but publishes only on request."""

    def __init__(self, client: Client) -> None:
        self._client, self._redis = client, redis_of(client)
        self.id = new_id()
        self.keys = client.settings.keys.request(self.id)
        self.n = 0
        self.epoch = 0
        self._redis.hset(self.keys.meta, mapping={"state": "queued", "epoch": 0, "n": 0})
        self._redis.expire(self.keys.meta, 300)
        self.write(events.QUEUED)
        self.epoch = 1

    def write(self, kind: str = "x", *, publish: bool = True) -> bytes:
        self.n += 1
        line = events.encode(self.epoch, self.n, {"type": kind})
        self._redis.xadd(self.keys.log, {"d": line}, id=f"{self.epoch}-{self.n}")
        self._redis.expire(self.keys.log, 300)
        self._redis.hset(self.keys.meta, "n", self.n)
        if kind == events.END:
            self._redis.hset(self.keys.meta, "state", "done")
        if publish:
            self.publish(line)
        return line

    def publish(self, line: bytes) -> None:
        self._redis.publish(self.keys.events, line)

    def heartbeat(self, n: int) -> None:
        self.publish(events.encode(self.epoch, n, {"type": events.HEARTBEAT}))

    def end(self, *, publish: bool = True) -> None:
        self.write(events.END, publish=publish)

    def follow(self, *, after: Cursor | None = None, timeout: float | None = 20) -> Iterator[Event]:
        """The events of the request, as a reader gets them."""
        return self._client.messages.request(self.id).events(after=after, timeout=timeout)


@pytest.fixture
def writer(penstock_client: Client) -> Writer:
    return Writer(penstock_client)


def set_silence(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Seconds that a reader waits for a message before it reads the log."""
    monkeypatch.setattr("penstock.follow.plan.SILENCE_S", seconds)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """No silence is ever detected, so every event arrives by a message."""
    set_silence(monkeypatch, 600.0)


@pytest.fixture
def sharp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is detected at once."""
    set_silence(monkeypatch, 0.02)


def numbers(found: list[Event]) -> list[int]:
    return [event.n for event in found]


@pytest.mark.usefixtures("deaf")
def test_a_live_reader_gets_each_event_as_it_is_published(writer: Writer) -> None:
    following = writer.follow()
    assert next(following).type == events.QUEUED
    for n in (2, 3, 4):
        writer.write()
        assert next(following).n == n
    writer.end()
    assert next(following).type == events.END
    assert list(following) == []


@pytest.mark.usefixtures("deaf")
def test_a_late_reader_gets_the_log_and_then_the_live_events(writer: Writer) -> None:
    for _ in range(5):
        writer.write()
    following = writer.follow()
    assert numbers(list(islice(following, 6))) == [1, 2, 3, 4, 5, 6]
    writer.write()
    writer.end()
    assert numbers(list(following)) == [7, 8]


@pytest.mark.usefixtures("deaf")
def test_an_event_whose_message_was_lost_is_read_from_the_log(writer: Writer) -> None:
    following = writer.follow()
    next(following)
    writer.write(publish=False)
    writer.write(publish=False)
    writer.write()  # the only message that arrives
    assert numbers(list(islice(following, 3))) == [2, 3, 4]
    writer.write()
    writer.end()
    assert numbers(list(following)) == [5, 6]


@pytest.mark.usefixtures("deaf")
def test_a_message_that_arrives_twice_or_late_is_delivered_once(writer: Writer) -> None:
    following = writer.follow()
    next(following)
    second = writer.write()
    writer.publish(second)
    third = writer.write()
    writer.publish(second)
    writer.publish(third)
    writer.end()
    assert numbers(list(following)) == [2, 3, 4]


@pytest.mark.usefixtures("deaf")
def test_a_heartbeat_reveals_a_lost_last_message(writer: Writer) -> None:
    following = writer.follow()
    next(following)
    writer.write(publish=False)
    writer.heartbeat(1)  # an old one: reveals nothing
    writer.heartbeat(2)
    assert next(following).n == 2
    writer.end(publish=False)
    writer.heartbeat(3)
    assert next(following).type == events.END


@pytest.mark.usefixtures("sharp")
def test_silence_reveals_a_lost_last_message(writer: Writer) -> None:
    following = writer.follow()
    next(following)
    writer.write(publish=False)
    assert next(following).n == 2
    writer.end(publish=False)
    assert next(following).type == events.END
    assert list(following) == []


@pytest.mark.usefixtures("deaf")
def test_event_numbers_continue_after_a_takeover(writer: Writer) -> None:
    following = writer.follow()
    next(following)
    writer.write()
    writer.epoch = 2
    writer.write(events.ATTEMPT, publish=False)
    writer.write()
    writer.end()
    found = list(following)
    assert [(event.epoch, event.n) for event in found] == [(1, 2), (2, 3), (2, 4), (2, 5)]


@pytest.mark.usefixtures("deaf")
def test_a_reader_that_resumes_gets_the_events_after_its_cursor(writer: Writer) -> None:
    for _ in range(4):
        writer.write()
    writer.epoch = 2
    writer.write()
    first = list(islice(writer.follow(), 6))
    writer.end()
    for event in first:
        again = list(writer.follow(after=event.cursor))
        assert numbers(again) == list(range(event.n + 1, 8))


@pytest.mark.usefixtures("deaf")
def test_a_reader_gets_nothing_after_the_last_event(writer: Writer) -> None:
    writer.write()
    writer.end()
    assert numbers(list(writer.follow())) == [1, 2, 3]
    assert list(writer.follow(after=Cursor(1, 3))) == []


@pytest.mark.usefixtures("sharp")
def test_a_reader_that_timed_out_can_resume_later(writer: Writer) -> None:
    writer.write()
    following = writer.follow(timeout=0.1)
    taken = [next(following), next(following)]
    with pytest.raises(TimeoutError, match=f"no event of {writer.id} for 0.1 s"):
        next(following)
    writer.end()
    later = list(writer.follow(after=taken[-1].cursor))
    assert numbers([*taken, *later]) == [1, 2, 3]


@pytest.mark.usefixtures("sharp")
def test_heartbeats_do_not_restart_the_timeout_of_a_reader(writer: Writer) -> None:
    following = writer.follow(timeout=0.2)
    next(following)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.01):
            writer.heartbeat(1)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(TimeoutError):
            next(following)
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("deaf")
def test_a_timeout_of_zero_still_delivers_the_log(writer: Writer) -> None:
    writer.write()
    following = writer.follow(timeout=0)
    assert numbers([next(following), next(following)]) == [1, 2]
    with pytest.raises(TimeoutError):
        next(following)


@pytest.mark.usefixtures("sharp")
def test_a_record_that_expires_during_reading_is_not_found(
    penstock_client: Client, writer: Writer
) -> None:
    following = writer.follow()
    next(following)
    redis_of(penstock_client).delete(writer.keys.meta, writer.keys.log)
    with pytest.raises(NotFound, match="never existed, or it has expired"):
        next(following)


def test_a_record_that_never_existed_is_not_found_at_once(penstock_client: Client) -> None:
    with pytest.raises(NotFound):
        penstock_client.messages.request(new_id())


@pytest.mark.parametrize("count", [998, 999, 1000, 1001, 2500])
@pytest.mark.usefixtures("deaf")
def test_a_long_log_is_read_in_pages_without_a_gap(
    penstock_client: Client, writer: Writer, count: int
) -> None:
    with redis_of(penstock_client).pipeline() as pipe:
        for n in range(2, count + 1):
            pipe.xadd(writer.keys.log, {"d": events.encode(1, n, {"type": "x"})}, id=f"1-{n}")
        pipe.hset(writer.keys.meta, "n", count)
        pipe.execute()
    writer.n = count
    writer.end()
    assert numbers(list(writer.follow())) == list(range(1, count + 2))
    assert numbers(list(writer.follow(after=Cursor(1, count - 1)))) == [count, count + 1]


@pytest.mark.usefixtures("deaf")
def test_a_reader_that_stops_early_leaves_no_subscription(
    penstock_client: Client, writer: Writer
) -> None:
    following = writer.follow()
    next(following)
    writer.write()
    next(following)
    assert writer.write() is not None
    following.close()  # type: ignore[attr-defined]  # it is a generator
    wait_until(
        lambda: redis_of(penstock_client).publish(writer.keys.events, b"{}") == 0,
        what="the subscription to end",
    )


def test_many_readers_of_one_stream_all_get_everything_once(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start at any time, and every seventh message is lost."""
    set_silence(monkeypatch, 0.2)
    found: dict[int, list[int]] = {}

    def read(name: int) -> None:
        found[name] = numbers(list(writer.follow()))

    threads = []
    for i in range(300):
        if i % 15 == 0:
            threads.append(threading.Thread(target=read, args=(i,)))
            threads[-1].start()
        writer.write(publish=i % 7 != 0)
    writer.end(publish=False)
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(each == list(range(1, 303)) for each in found.values())


@pytest.mark.usefixtures("deaf")
def test_a_message_that_is_not_an_event_does_not_end_the_reader(writer: Writer) -> None:
    following = writer.follow()
    next(following)
    writer.publish(b"hello?")
    writer.write()
    assert next(following).n == 2


@pytest.mark.usefixtures("sharp")
@pytest.mark.parametrize("cursor", [Cursor(0, 3), Cursor(9, 3), Cursor(9, 99)])
def test_a_cursor_that_is_not_in_the_log_starts_the_reader_over(
    writer: Writer, cursor: Cursor
) -> None:
    """Redis has lost what the reader had, or the cursor was mistyped."""
    for _ in range(4):
        writer.write()
    writer.end()
    found = list(writer.follow(after=cursor))
    assert found[0].data == {"type": events.REWIND, "index": 0, "offset": 0}
    assert numbers(found) == [0, 1, 2, 3, 4, 5, 6]
