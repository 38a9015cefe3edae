"""The two scripts of the rate limiter against their contracts, rule by rule.

A test writes the state and reads the state after a call. The script notes the time of its call
(``stamp_ms``, by Redis's clock), so each rule is an equation without a tolerance for slow machines.
"""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from penstock.keys import Keys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.settings import ClientSettings
from penstock.store import limit_scripts
from penstock.store.connection import connect_async
from penstock.store.limit_scripts import RequestLimit
from penstock.testing import wait_until
from tasks.api.rate_limits import Lane
from tasks.streams.rate_limiter import FIRST_CALLS, RateLimiter
from tests.contract.penstock.store.calls import clock
from tests.contract.tasks.streams.test_rate_limiter import Limiter, ids

HOUR_US = 3_600_000_000
LONG_MS = 500_000


class Bucket(Limiter):
    """The rate limit of a model, whose state a test can write and read."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.limit, self.calls, self.turns = self.names

    def write(self, fields: dict[str, Any]) -> None:
        """Write fields of the limit."""
        self.connection.hset(self.limit, mapping=fields)
        self.connection.expire(self.limit, 600)

    def place(self, name: str, id: str, at_ms: int) -> None:
        """Write a request's time to a sorted set."""
        self.connection.zadd(name, {id: at_ms})
        self.connection.expire(name, 600)

    def fill(self, *, tokens: float, interval_us: int, limit: int = 60, age_ms: int = 0) -> None:
        """Let the limit be known, with this many tokens ``age_ms`` ago."""
        state = {"known": "yes", "tokens": tokens, "interval_us": interval_us, "limit": limit}
        stamp_ms = clock(self.connection) - age_ms
        self.write({**state, "stamp_ms": stamp_ms})

    def close(self, in_ms: int) -> int:
        """Let the API have refused a call; returns until when."""
        closed_ms = clock(self.connection) + in_ms
        self.write({"closed_ms": closed_ms})
        return closed_ms

    def give_turn(self, id: str, in_ms: int) -> int:
        """Give a request a turn; returns its time."""
        turn_ms = clock(self.connection) + in_ms
        self.place(self.turns, id, turn_ms)
        return turn_ms

    def number(self, field: str) -> float:
        return float(self.connection.hget(self.limit, field))

    def turn_of(self, id: str) -> int | None:
        score = self.connection.zscore(self.turns, id)
        return None if score is None else int(score)

    def is_outstanding(self, id: str) -> bool:
        return self.connection.zscore(self.calls, id) is not None

    def known(self) -> bytes | None:
        return self.connection.hget(self.limit, "known")  # type: ignore[no-any-return]


@pytest.fixture
def bucket(penstock_redis: EmbeddedRedis) -> Iterator[Bucket]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield Bucket(connection)


# -- acquire ----------------------------------------------------------------------------------


def test_the_limit_is_refilled_with_the_time_that_has_passed(bucket: Bucket) -> None:
    bucket.fill(tokens=2.5, interval_us=200_000, limit=1_000, age_ms=10_000)
    filled_ms = bucket.number("stamp_ms")
    assert bucket.acquire("r") == 0
    passed_ms = bucket.number("stamp_ms") - filled_ms
    assert passed_ms >= 10_000
    assert bucket.number("tokens") == pytest.approx(2.5 + passed_ms / 200 - 1)


def test_the_limit_is_never_refilled_beyond_its_size(bucket: Bucket) -> None:
    bucket.fill(tokens=59, interval_us=1_000, limit=60, age_ms=10**9)
    assert bucket.acquire("r") == 0
    assert bucket.number("tokens") == 59


@pytest.mark.parametrize(("tokens", "sent"), [(2, True), (1, True), (0.9, False), (0, False)])
def test_a_request_is_sent_if_a_whole_token_is_left(
    bucket: Bucket, tokens: float, sent: bool
) -> None:
    bucket.fill(tokens=tokens, interval_us=HOUR_US)
    assert (bucket.acquire("r") == 0) is sent
    assert bucket.number("tokens") == pytest.approx(tokens - 1, abs=0.01)
    assert (bucket.turn_of("r") is None, bucket.is_outstanding("r")) == (sent, sent)


def test_a_request_that_is_sent_counts_as_outstanding_until_it_is_lost(bucket: Bucket) -> None:
    bucket.fill(tokens=5, interval_us=HOUR_US)
    assert bucket.acquire("r", lost_after_ms=LONG_MS) == 0
    lost_at = bucket.connection.zscore(bucket.calls, "r")
    assert lost_at == bucket.number("stamp_ms") + LONG_MS


@pytest.mark.parametrize("tokens", [0.5, 0, -1, -7.5])
def test_a_turn_is_when_its_token_will_be_there_and_a_little_later(
    bucket: Bucket, tokens: float
) -> None:
    bucket.fill(tokens=tokens, interval_us=2_000_000)
    wait_ms = bucket.acquire("r")
    now_ms, left = bucket.number("stamp_ms"), bucket.number("tokens")
    assert left < tokens
    turn_ms = math.ceil(now_ms + 1.05 * -left * 2_000)
    assert bucket.turn_of("r") == pytest.approx(turn_ms, abs=1)
    assert wait_ms == pytest.approx(turn_ms - now_ms, abs=1)
    assert not bucket.is_outstanding("r")


def test_each_further_turn_is_one_interval_later(bucket: Bucket) -> None:
    bucket.fill(tokens=0, interval_us=HOUR_US)
    for id in ids(4):
        bucket.acquire(id)
    turns = [bucket.turn_of(id) or 0 for id in ids(4)]
    apart = [later - turns[0] for later in turns]
    assert apart == pytest.approx([n * 1.05 * HOUR_US / 1000 for n in range(4)], rel=1e-3)


@pytest.mark.parametrize("known", [True, False])
def test_a_request_that_asks_before_its_turn_waits_for_the_rest_and_changes_nothing(
    bucket: Bucket, known: bool
) -> None:
    if known:
        bucket.fill(tokens=-2, interval_us=HOUR_US)
    turn_ms = bucket.give_turn("r", 10_000)
    before = bucket.connection.hgetall(bucket.limit)
    earliest = clock(bucket.connection)
    wait_ms = bucket.acquire("r")
    assert turn_ms - clock(bucket.connection) <= wait_ms <= turn_ms - earliest
    assert bucket.connection.hgetall(bucket.limit) == before
    assert (bucket.turn_of("r"), bucket.is_outstanding("r")) == (turn_ms, False)


@pytest.mark.parametrize(("tokens", "sent"), [(0.1, True), (0, True), (-0.1, False)])
def test_a_request_is_sent_before_its_turn_if_the_tokens_of_all_turns_are_there(
    bucket: Bucket, tokens: float, sent: bool
) -> None:
    """The limit may have grown since the turn was given: no request waits for an old limit."""
    bucket.fill(tokens=tokens, interval_us=HOUR_US)
    bucket.give_turn("r", LONG_MS)
    assert (bucket.acquire("r") == 0) is sent
    assert (bucket.turn_of("r") is None, bucket.is_outstanding("r")) == (sent, sent)
    assert bucket.number("tokens") == tokens


def test_a_closed_limit_sends_no_request_before_its_turn(bucket: Bucket) -> None:
    bucket.fill(tokens=9, interval_us=HOUR_US)
    bucket.close(in_ms=1_000)
    turn_ms = bucket.give_turn("r", LONG_MS)
    assert bucket.acquire("r") > 0
    assert bucket.turn_of("r") == turn_ms


@pytest.mark.parametrize("tokens", [-3, -1_000, -1e12])
def test_a_request_whose_turn_is_far_ahead_asks_again_after_the_maximum_wait(
    bucket: Bucket, tokens: float
) -> None:
    bucket.fill(tokens=tokens, interval_us=60_000_000)
    assert bucket.acquire("r", max_wait_ms=90_000) == 90_000
    turn_ms = bucket.turn_of("r")
    assert turn_ms is not None
    assert turn_ms > clock(bucket.connection) + 90_000
    assert bucket.acquire("r", max_wait_ms=90_000) == 90_000
    assert bucket.turn_of("r") == turn_ms


@pytest.mark.parametrize("in_ms", [90_000, 10**12])
def test_a_limit_that_is_closed_for_too_long_opens_after_the_maximum_wait(
    bucket: Bucket, in_ms: int
) -> None:
    """An earlier version stored any retry-after, however long."""
    bucket.close(in_ms=in_ms)
    latest = [clock(bucket.connection) + 60_000 + n * 50 for n in range(3)]
    assert all(bucket.acquire(id, max_wait_ms=60_000) == 60_000 for id in ids(3))
    assert bucket.number("closed_ms") <= clock(bucket.connection) + 60_000
    turns = [bucket.turn_of(id) or 0 for id in ids(3)]
    assert all(0 <= turn - least < 5_000 for turn, least in zip(turns, latest, strict=True))


def test_a_limit_that_is_slower_than_the_maximum_wait_fills_once_in_that_time(
    bucket: Bucket,
) -> None:
    bucket.fill(tokens=0, interval_us=24 * HOUR_US, age_ms=61_000)
    assert bucket.acquire("r", max_wait_ms=60_000) == 0


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("in_ms", [10, -1, -30_000])
def test_a_request_whose_turn_has_come_is_sent_and_takes_no_second_token(
    bucket: Bucket, known: bool, in_ms: int
) -> None:
    if known:
        bucket.fill(tokens=-5, interval_us=HOUR_US)
    bucket.give_turn("r", in_ms)
    assert bucket.acquire("r") == 0
    assert (bucket.turn_of("r"), bucket.is_outstanding("r")) == (None, True)
    if known:
        assert bucket.number("tokens") == -5


def test_a_turn_that_was_missed_by_a_minute_is_forgotten(bucket: Bucket) -> None:
    bucket.fill(tokens=-5, interval_us=HOUR_US)
    bucket.give_turn("r", -60_001)
    bucket.give_turn("other", -30_000)
    assert bucket.acquire("r") > 0
    assert bucket.turn_of("other") is not None
    assert bucket.number("tokens") == pytest.approx(-6, abs=0.01)


def test_after_a_refusal_requests_take_turns_although_tokens_are_left(bucket: Bucket) -> None:
    """The limit that refused a call may not be the one that is known."""
    bucket.fill(tokens=50, interval_us=1)
    closed_ms = bucket.close(in_ms=LONG_MS)
    for id in ids(3):
        assert bucket.acquire(id) > 0
    assert [bucket.turn_of(id) for id in ids(3)] == [closed_ms, closed_ms + 50, closed_ms + 100]


def test_after_a_refusal_a_known_limit_without_tokens_gives_later_turns(bucket: Bucket) -> None:
    bucket.fill(tokens=0, interval_us=HOUR_US)
    closed_ms = bucket.close(in_ms=1_000)
    bucket.acquire("r")
    turn_ms = bucket.turn_of("r")
    assert turn_ms is not None
    assert turn_ms > closed_ms + 1_000_000


def test_each_request_that_waits_for_the_end_of_a_refusal_takes_one_token(bucket: Bucket) -> None:
    bucket.fill(tokens=50, interval_us=HOUR_US)
    bucket.close(in_ms=LONG_MS)
    bucket.acquire("r")
    assert bucket.number("tokens") == pytest.approx(49, abs=0.01)
    bucket.give_turn("r", -1)  # its turn comes before another refusal has ended
    bucket.acquire("r")
    assert bucket.number("tokens") == pytest.approx(49, abs=0.01)
    assert (bucket.turn_of("r") or 0) > clock(bucket.connection)


@pytest.mark.parametrize("known", [None, "none"])
def test_after_a_refusal_without_a_known_limit_requests_are_sent_one_after_the_other(
    bucket: Bucket, known: str | None
) -> None:
    if known:
        bucket.write({"known": known})
    closed_ms = bucket.close(in_ms=LONG_MS)
    for id in ids(3):
        assert 0 < bucket.acquire(id) <= LONG_MS + 100
    assert [bucket.turn_of(id) for id in ids(3)] == [closed_ms, closed_ms + 50, closed_ms + 100]
    assert not bucket.is_outstanding("r0")


@pytest.mark.parametrize("known", [True, False])
def test_a_refusal_that_is_over_holds_nothing_back(bucket: Bucket, known: bool) -> None:
    if known:
        bucket.fill(tokens=5, interval_us=HOUR_US)
    bucket.close(in_ms=-1)
    assert bucket.acquire("r") == 0
    assert bucket.turn_of("r") is None


def test_the_bound_on_first_calls_gives_no_turn_and_ends_with_the_calls(bucket: Bucket) -> None:
    for id in ids(FIRST_CALLS):
        assert bucket.acquire(id, lost_after_ms=LONG_MS) == 0
    assert bucket.acquire("one more") == 100
    assert (bucket.turn_of("one more"), bucket.is_outstanding("one more")) == (None, False)
    bucket.place(bucket.calls, "r0", clock(bucket.connection) - 1)  # it is lost
    assert bucket.acquire("one more") == 0


# -- report -----------------------------------------------------------------------------------


def test_a_report_records_the_limit_less_what_is_outstanding_or_has_a_turn(bucket: Bucket) -> None:
    for id in ids(3):
        bucket.acquire(id)
    bucket.give_turn("waits", LONG_MS)
    earliest = clock(bucket.connection)
    bucket.report("r0", RequestLimit(60, 50, 0))
    assert bucket.known() == b"yes"
    assert (bucket.number("limit"), bucket.number("tokens")) == (60, 50 - 2 - 1)
    assert earliest <= bucket.number("stamp_ms") <= clock(bucket.connection)
    assert [bucket.is_outstanding(id) for id in ids(3)] == [False, True, True]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (RequestLimit(60, 45, 10_000), 666_666),  # a quarter is used
        (RequestLimit(60, 46, 10_000), 1_000_000),  # less than that: a minute for all of it
        (RequestLimit(60, 0, 120_000), 2_000_000),
        (RequestLimit(60, 0, 0), 1_000_000),  # full already
        (RequestLimit(1, 1, 0), 60_000_000),
        (RequestLimit(4, 2, 10_000), 5_000_000),
        (RequestLimit(4, 3, 10_000), 15_000_000),  # of one request nothing can be learned
        (RequestLimit(10**9, 0, 1), 1),
    ],
)
def test_the_pace_of_a_limit_is_learned_once_much_of_it_is_used(
    bucket: Bucket, limit: RequestLimit, expected: int
) -> None:
    bucket.report("r", limit)
    assert bucket.number("interval_us") == expected


def test_a_pace_that_was_learned_is_kept_until_more_is_known(bucket: Bucket) -> None:
    bucket.report("r", RequestLimit(60, 0, 30_000))
    bucket.report("r", RequestLimit(60, 59, 1_000))
    assert bucket.number("interval_us") == 500_000
    assert bucket.number("tokens") == 59
    bucket.report("r", RequestLimit(60, 30, 30_000))
    assert bucket.number("interval_us") == 1_000_000


def test_a_response_without_a_limit_does_not_hide_a_limit_that_is_known(bucket: Bucket) -> None:
    bucket.report("r")
    assert bucket.known() == b"none"
    bucket.report("r", RequestLimit(60, 50, 0))
    bucket.report("r")
    assert (bucket.known(), bucket.number("tokens")) == (b"yes", 50)


def test_the_limit_is_closed_for_as_long_as_a_report_says(bucket: Bucket) -> None:
    earliest = clock(bucket.connection)
    bucket.report("r", RequestLimit(60, 0, 0), refused=True, closed_for_ms=30_000)
    assert earliest + 30_000 <= bucket.number("closed_ms") <= clock(bucket.connection) + 30_000
    assert (bucket.known(), bucket.number("limit")) == (b"yes", 60)
    closed_ms = bucket.number("closed_ms")
    bucket.report("r", refused=True, closed_for_ms=1)
    assert bucket.number("closed_ms") == closed_ms
    bucket.report("r", refused=True, closed_for_ms=LONG_MS)
    assert bucket.number("closed_ms") > closed_ms


@pytest.mark.parametrize("refused", [True, False])
def test_a_report_that_names_no_time_does_not_close_the_limit(
    bucket: Bucket, refused: bool
) -> None:
    bucket.acquire("r")
    bucket.report("r", refused=refused)
    assert not bucket.connection.hexists(bucket.limit, "closed_ms")
    assert bucket.known() == (None if refused else b"none")
    assert not bucket.is_outstanding("r")


@pytest.mark.parametrize("call", ["sent", "waits", "reported"])
def test_each_call_keeps_every_key_of_the_limit_for_an_hour(bucket: Bucket, call: str) -> None:
    bucket.fill(tokens=0 if call == "waits" else 9, interval_us=HOUR_US)
    bucket.place(bucket.calls, "other", clock(bucket.connection) + LONG_MS)
    bucket.give_turn("another", LONG_MS)
    if call == "reported":
        bucket.report("r", RequestLimit(60, 50, 0))
    else:
        bucket.acquire("r")
    assert all(3_500 < bucket.connection.ttl(name) <= 3_600 for name in bucket.names)


# -- the limiter of a worker ------------------------------------------------------------------


def test_a_worker_acquires_in_seconds_reports_a_refusal_and_releases_a_place(
    penstock_redis: EmbeddedRedis, bucket: Bucket
) -> None:
    settings = ClientSettings.load(redis_url=penstock_redis.url, key_prefix="rate-limit")
    assert limit_scripts.acquire_rate_limit(
        settings.keys, bucket.model, id="", first_calls=0, lost_after_ms=0, max_wait_ms=0
    ).keys == list(bucket.names)

    async def use() -> float:
        connection = connect_async(settings)
        limiter, lane = RateLimiter(connection, settings.keys), Lane(bucket.model)
        assert await limiter.acquire(lane, "given-up") == 0
        assert bucket.is_outstanding("given-up")
        limiter.release(lane, "given-up")
        await asyncio.to_thread(wait_until, lambda: not bucket.is_outstanding("given-up"))
        assert await limiter.acquire(lane, "r") == 0
        await limiter.report(lane, "r", {}, refused=True, retry_after_s=300.5)
        assert not bucket.is_outstanding("r")
        waits = await limiter.acquire(lane, "r")
        await connection.aclose()
        return waits

    assert 200 < asyncio.run(use()) <= 300.5


def test_a_limit_that_another_program_overwrote_is_replaced(bucket: Bucket) -> None:
    bucket.connection.set(bucket.limit, "not a hash", ex=60)
    assert bucket.acquire("a") == 0
    bucket.report("a", RequestLimit(2, 1, 60_000))
    odd = {"tokens": "x", "interval_us": "", "closed_ms": "y"}
    bucket.connection.hset(bucket.limit, mapping=odd)
    assert bucket.acquire("b") == 0
    assert not bucket.connection.hexists(bucket.limit, "tokens")


def test_a_rate_limiter_that_fails_holds_no_call_back(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        async def evalsha(self, *_: object) -> object:
            raise redis.ResponseError("a bug in the script")

    async def use() -> float:
        failing: Any = Failing()
        limiter, lane = RateLimiter(failing, Keys("rate-limit")), Lane(bucket.model)
        waits = await limiter.acquire(lane, "r")
        await limiter.report(lane, "r", {}, refused=True, retry_after_s=30)
        return waits

    assert asyncio.run(use()) == 0
    assert "the rate limiter failed" in caplog.text
    assert "could not record a response" in caplog.text
