"""The rate limiter over a real Redis: what all workers learn from one response."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis

from penstock.ids import new_id
from penstock.keys import Keys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.store import limit_scripts
from penstock.store.limit_scripts import RequestLimit
from penstock.testing import wait_until
from tasks.api.rate_limits import Lane
from tasks.streams.rate_limiter import FIRST_CALLS, LOST_AFTER_MS


class Limiter:
    """The two scripts as workers call them. Stateless, so one instance represents many workers."""

    def __init__(self, connection: Any) -> None:
        model = f"claude-{new_id()}"
        self.model, self.keys = model, Keys("rate-limit")
        self.names = limit_scripts.acquire_rate_limit(
            self.keys, model, id="", first_calls=0, lost_after_ms=0, max_wait_ms=0
        ).keys
        self.connection = connection

    def acquire(
        self, id: str, *, lost_after_ms: int = LOST_AFTER_MS, max_wait_ms: int = 10**12
    ) -> int:
        """Returns 0 if the call may be made, else the ms to wait."""
        return limit_scripts.acquire_rate_limit(
            self.keys,
            self.model,
            id=id,
            first_calls=FIRST_CALLS,
            lost_after_ms=lost_after_ms,
            max_wait_ms=max_wait_ms,
        ).run(self.connection)

    def report(
        self,
        id: str,
        limit: RequestLimit | None = None,
        *,
        refused: bool = False,
        closed_for_ms: int | None = None,
    ) -> None:
        limit_scripts.report_rate_limit(
            self.keys,
            self.model,
            id=id,
            refused=refused,
            closed_for_ms=closed_for_ms,
            limit=limit,
        ).run(self.connection)

    def unlimited(self) -> "Limiter":
        """Make one call whose response names no limit."""
        assert self.acquire("first") == 0
        self.report("first")
        return self

    def limited(self, limit: int, remaining: int, full_in_ms: int = 60_000) -> "Limiter":
        """Make one call whose response names this limit."""
        assert self.acquire("first") == 0
        self.report("first", RequestLimit(limit, remaining, full_in_ms))
        return self


@pytest.fixture
def limiter(penstock_redis: EmbeddedRedis) -> Iterator[Limiter]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield Limiter(connection)


def ids(count: int, name: str = "r") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


def test_while_the_limit_is_unknown_only_a_few_calls_are_outstanding(limiter: Limiter) -> None:
    assert [limiter.acquire(id) for id in ids(FIRST_CALLS)] == [0] * FIRST_CALLS
    assert limiter.acquire("one more") > 0


def test_a_response_without_a_limit_lifts_the_bound_on_calls(limiter: Limiter) -> None:
    limiter.unlimited()
    assert {limiter.acquire(id) for id in ids(5 * FIRST_CALLS)} == {0}


def test_a_refusal_without_headers_does_not_lift_the_bound_on_calls(limiter: Limiter) -> None:
    for id in ids(FIRST_CALLS):
        limiter.acquire(id)
    limiter.report("r0", refused=True)
    assert limiter.acquire("one") == 0
    assert limiter.acquire("one more") > 0


def test_the_remaining_requests_are_shared_by_all_workers(limiter: Limiter) -> None:
    limiter.limited(50, 7)
    waits = [
        limiter.acquire(id) for pair in zip(ids(9, "a"), ids(9, "b"), strict=True) for id in pair
    ]
    assert waits[:7] == [0] * 7
    assert all(waits[7:])


def test_outstanding_calls_count_against_the_remaining_requests(limiter: Limiter) -> None:
    assert [limiter.acquire(id) for id in ids(4)] == [0] * 4
    limiter.report("r0", RequestLimit(50, 5, 60_000))
    assert [limiter.acquire(id) for id in ids(2, "x")] == [0] * 2
    assert limiter.acquire("one more") > 0


def test_each_waiting_request_gets_its_own_turn(limiter: Limiter) -> None:
    limiter.limited(60, 0)
    waits = [limiter.acquire(id) for id in ids(5)]
    apart = [later - earlier for earlier, later in pairwise(waits)]
    assert all(abs(each - 1050) < 100 for each in apart), waits


def test_a_request_that_asks_too_early_keeps_its_turn(limiter: Limiter) -> None:
    limiter.limited(60, 0)
    first, _, second = limiter.acquire("early"), limiter.acquire("other"), limiter.acquire("early")
    assert 0 < second <= first


def test_a_turn_is_used_once(limiter: Limiter) -> None:
    limiter.limited(600, 0, full_in_ms=60_000)
    assert limiter.acquire("r") > 0
    wait_until(lambda: limiter.acquire("r") == 0, what="its turn")
    assert limiter.acquire("r") > 0


def test_a_retry_after_holds_back_every_request(limiter: Limiter) -> None:
    limiter.unlimited()
    limiter.report("r", refused=True, closed_for_ms=30_000)
    assert all(25_000 < limiter.acquire(id) <= 35_000 for id in ids(3))


def test_a_shorter_retry_after_does_not_shorten_a_longer_one(limiter: Limiter) -> None:
    limiter.unlimited()
    limiter.report("r", refused=True, closed_for_ms=30_000)
    limiter.report("s", refused=True, closed_for_ms=1)
    assert limiter.acquire("one more") > 20_000


def test_after_a_retry_after_requests_are_spread_out(limiter: Limiter) -> None:
    limiter.limited(60, 40)
    limiter.report("r", refused=True, closed_for_ms=200)
    waits = [limiter.acquire(id) for id in ids(4)]
    assert all(later > earlier for earlier, later in pairwise(waits))


def test_the_place_of_a_call_whose_worker_died_expires(limiter: Limiter) -> None:
    for id in ids(FIRST_CALLS):
        limiter.acquire(id, lost_after_ms=1)
    wait_until(lambda: limiter.acquire("one more") == 0, what="the lost calls to be forgotten")


def test_every_key_of_the_rate_limiter_has_a_ttl(limiter: Limiter) -> None:
    limiter.limited(60, 0)
    limiter.acquire("waits")
    limiter.report("r", refused=True, closed_for_ms=1000)
    lives = [limiter.connection.ttl(name) for name in limiter.names]
    assert all(life == -2 or 0 < life <= 3600 for life in lives)
    assert lives[0] > 0
    assert lives[2] > 0


def test_each_model_has_a_rate_limit_of_its_own(limiter: Limiter) -> None:
    limiter.unlimited()
    limiter.report("r", refused=True, closed_for_ms=30_000)
    assert Limiter(limiter.connection).acquire("r") == 0


def test_the_rate_limiter_waits_while_redis_is_unavailable() -> None:
    from penstock.settings import ClientSettings
    from penstock.store.connection import connect_async
    from tasks.streams.rate_limiter import RateLimiter

    with EmbeddedRedis() as server:
        settings = ClientSettings.load(redis_url=server.url)
        server.kill()

        async def ask() -> float:
            connection = connect_async(settings)
            limiter = RateLimiter(connection, settings.keys)
            await limiter.report(Lane("m"), "r", {})  # best effort: it does not wait
            asked = asyncio.ensure_future(limiter.acquire(Lane("m"), "r"))
            with EmbeddedRedis(port=server.port):
                waited = await asked
                await connection.aclose()
            return waited

        assert asyncio.run(ask()) == 0
