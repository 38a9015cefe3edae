"""Follower: the reading algorithm, without a Redis."""

import pytest
import redis

from penstock import events
from penstock.errors import NotFound, RecordUnreadable, RedisUnavailable
from penstock.events import Cursor, Event
from penstock.follow.plan import PAGE
from penstock.follow.subscription import Received
from penstock.follow.waiting import MAX_UNAVAILABLE_S
from penstock.states import State
from tests.unit.penstock.follow.scripted_world import World


@pytest.fixture
def world() -> World:
    world = World()
    world.write(events.QUEUED, epoch=0)
    return world


def numbers(found: list[Event]) -> list[int]:
    return [event.n for event in found]


def test_a_request_that_has_ended_is_read_without_waiting(world: World) -> None:
    for _ in range(2 * PAGE):
        world.write()
    world.write(events.END)
    assert world.follow() == world.log
    assert world.waits == []


def test_the_log_is_read_again_when_redis_acknowledges_the_subscription(world: World) -> None:
    world.happenings = [lambda: world.write(), lambda: world.write(events.END)]
    assert world.follow() == world.log


def test_events_that_are_received_are_delivered_without_another_read_of_the_log(
    world: World,
) -> None:
    log = [*world.log, *(world.write() for _ in range(5)), world.write(events.END)]
    world.log, world.state = log[:2], State.RUNNING
    world.received = [
        Received([], missed=True),  # Redis has acknowledged the subscription
        *(Received([event], missed=False) for event in log[2:]),
    ]
    assert world.follow() == log
    assert world.reads == 2


def test_a_lost_last_message_costs_no_more_than_the_silence_interval(world: World) -> None:
    def end_unpublished() -> None:
        world.write(events.END)
        world.received = [Received([], missed=False)]  # as after a wait without a message

    world.happenings = [end_unpublished]
    world.received = [Received([], missed=False)]
    assert numbers(world.follow()) == [1, 2]


def test_an_event_of_another_epoch_is_delivered_only_from_the_log(world: World) -> None:
    first = [world.write() for _ in range(3)]
    second = world.write(epoch=2)
    third = world.write(events.END, epoch=2)
    log, world.log = world.log, world.log[:4]
    world.state = State.RUNNING

    def more() -> None:
        world.log, world.state = log, State.DONE

    world.happenings = [more]
    world.received = [Received([], missed=True), Received([third], missed=False)]
    assert world.follow()[1:] == [*first, second, third]


def test_events_that_redis_lost_and_a_worker_rewrote_are_delivered_once(world: World) -> None:
    log = [*world.log, *(world.write() for _ in range(5))]

    def lose() -> None:
        world.log = log[:3]

    def rewrite() -> None:
        world.log = list(log)
        world.write(events.END)

    world.happenings = [lose, rewrite]
    assert numbers(world.follow()) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("epoch", [1, 2])
def test_other_events_in_place_of_lost_ones_are_read_from_the_beginning(
    world: World, epoch: int
) -> None:
    """By another claim, or even with the same epoch: Redis may have lost the claim as well."""
    log = [*world.log, *(world.write() for _ in range(5))]

    def lose() -> None:
        world.log = log[:3]

    def write_other() -> None:
        for n in (4, 5, 6, 7):
            world.log.append(Event(epoch, n, {"type": "other"}))
        world.write(events.END, epoch)

    world.happenings = [lose, write_other]
    found = world.follow()
    assert found[:6] == log
    assert found[6] == Event(0, 0, {"type": events.REWIND, "index": 0, "offset": 0})
    assert found[7:] == world.log


def test_a_live_event_is_not_delivered_after_a_lost_log_tail(world: World) -> None:
    """Between the loss and the rewriting, an event may have just the next number."""
    log = [*world.log, *(world.write() for _ in range(5))]
    other = Event(1, 7, {"type": "other"})

    def lose() -> None:
        world.log = log[:3]

    def write_other() -> None:
        world.log += [Event(1, n, {"type": "other"}) for n in (4, 5, 6)] + [other]
        world.received = [Received([other], missed=False)]
        world.happenings = [lambda: world.write(events.END)]

    world.happenings = [lose, write_other]
    assert world.follow()[6].type == events.REWIND


def test_a_trimmed_log_gives_a_snapshot_in_place_of_missing_events(world: World) -> None:
    for _ in range(9):
        world.write()
    world.write(events.END)
    del world.log[:5]
    world.text = "all of it"
    found = world.follow(after=Cursor(1, 3))
    assert found[0] == Event(1, 10, {"type": events.SNAPSHOT, "text": "all of it"})
    assert numbers(found) == [10, 11]


def test_a_cursor_right_before_the_first_event_kept_needs_no_snapshot(world: World) -> None:
    for _ in range(9):
        world.write()
    world.write(events.END)
    del world.log[:5]
    assert numbers(world.follow(after=Cursor(1, 5))) == [6, 7, 8, 9, 10, 11]


def test_a_reader_of_a_snapshot_gets_another_snapshot_in_place_of_a_rewind(world: World) -> None:
    for _ in range(3):
        world.write()
    world.text = "Hello wrold"

    def rewind() -> None:
        world.write(events.REWIND)
        world.text = "Hello "

    world.happenings = [rewind, lambda: world.write(events.END)]
    found = world.follow(text_first=True)
    assert [(event.type, event.data.get("text")) for event in found] == [
        (events.SNAPSHOT, "Hello wrold"),
        (events.SNAPSHOT, "Hello "),
        (events.END, None),
    ]


def test_a_record_without_a_log_gives_a_snapshot(world: World) -> None:
    world.log, world.n, world.state, world.text = [], 9, State.DONE, "so far"
    assert world.follow() == [Event(0, 9, {"type": events.SNAPSHOT, "text": "so far"})]


def test_a_new_request_needs_no_snapshot_for_its_text(world: World) -> None:
    world.happenings = [lambda: world.write(events.END)]
    assert numbers(world.follow(text_first=True)) == [1, 2]


def test_without_a_record_there_is_nothing_to_follow(world: World) -> None:
    world.state = None
    with pytest.raises(NotFound, match="the-id"):
        world.follow()
    assert world.waits == []


def test_a_reader_may_wait_for_a_record_that_does_not_exist_yet(world: World) -> None:
    world.state = None

    def appear() -> None:
        world.state = State.RUNNING
        world.write(events.END)

    world.happenings = [lambda: None, appear]
    assert numbers(world.follow(wait_for=10.0)) == [1, 2]


def test_a_reader_waits_for_a_record_no_longer_than_requested(world: World) -> None:
    world.state = None
    with pytest.raises(NotFound):
        world.follow(wait_for=10.0)
    assert sum(world.waits) == pytest.approx(10.0)


def test_a_record_that_expired_is_not_waited_for(world: World) -> None:
    def expire() -> None:
        world.state = None

    world.happenings = [expire]
    with pytest.raises(NotFound):
        world.follow(wait_for=1_000.0)


def test_a_redis_that_is_unavailable_at_the_start_is_reported_at_once(world: World) -> None:
    world.unavailable = True
    with pytest.raises(redis.ConnectionError):
        world.follow()


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.exceptions.MasterDownError("Link with MASTER is down"),
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
        redis.ResponseError("BUSY Redis is busy running a script."),
        redis.ResponseError("MISCONF Errors writing to the AOF file"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.ResponseError("upstream failure"),  # of a proxy
    ],
    ids=lambda error: str(error).split()[0],
)
def test_a_refusal_is_waited_for_also_at_the_start(world: World, error: Exception) -> None:
    def come_back() -> None:
        world.unavailable = False
        world.write(events.END)

    world.unavailable, world.error = True, error
    world.happenings = [*[lambda: None] * 3, come_back]
    assert numbers(world.follow()) == [1, 2]


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.NoPermissionError("User reader has no permissions to access a key"),
        redis.ResponseError("ACL failure in script: User reader has no permissions"),
        redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.ResponseError("unknown command 'XRANGE', with args beginning with: "),
        redis.exceptions.MovedError("1234 127.0.0.1:7001"),
        RecordUnreadable("the record is damaged"),
        RuntimeError("a bug"),
    ],
    ids=lambda error: str(error).split()[0],
)
def test_an_error_that_waiting_cannot_change_ends_the_reader_at_once(
    world: World, error: Exception
) -> None:
    def refuse() -> None:
        world.unavailable, world.error = True, error

    world.happenings = [refuse]
    with pytest.raises(type(error)):
        world.follow()
    assert len(world.waits) == 1


def test_a_redis_that_becomes_unavailable_is_waited_for(world: World) -> None:
    def leave() -> None:
        world.unavailable = True

    def come_back() -> None:
        world.unavailable = False
        world.write()
        world.write(events.END)

    world.happenings = [leave, *[lambda: None] * 5, come_back]
    assert numbers(world.follow()) == [1, 2, 3]


@pytest.mark.parametrize("timeout", [None, 100.0])
def test_outages_of_redis_do_not_add_up(world: World, timeout: float | None) -> None:
    """Each one may be nearly as long as the limit, since Redis answered in between."""
    limit = timeout or MAX_UNAVAILABLE_S

    def leave() -> None:
        world.unavailable = True

    def come_back() -> None:
        world.now += 0.8 * limit
        world.unavailable = False
        world.write()

    world.happenings = [*4 * [leave, come_back], lambda: world.write(events.END)]
    assert numbers(world.follow(timeout=timeout)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("timeout", "limit"), [(None, MAX_UNAVAILABLE_S), (7.0, 7.0)])
def test_a_redis_that_stays_unavailable_ends_reading_with_the_cursor(
    world: World, timeout: float | None, limit: float
) -> None:
    world.write()

    def leave() -> None:
        world.unavailable = True

    world.happenings = [leave]
    with pytest.raises(RedisUnavailable, match=f"{limit:g} s .*after='1-2'"):
        world.follow(timeout=timeout)
    assert sum(world.waits) >= limit


def test_each_event_restarts_the_timeout_of_a_reader(world: World) -> None:
    def later() -> None:
        world.now += 4.0
        world.write()

    world.happenings = [later, later, later]
    with pytest.raises(TimeoutError, match=r"no event of the-id for 5\.0 s"):
        world.follow(timeout=5.0)
    assert world.now == pytest.approx(17.0)
