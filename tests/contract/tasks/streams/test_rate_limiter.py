"""The rate gate over a real Redis: what two workers learn from one answer of the API."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
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
from tasks.streams.rate_limiter import FIRST_CALLS, LOST_AFTER_MS, limit_of


class Gate:
    """The two scripts, as any worker calls them. No state of its own, so one stands for many."""

    def __init__(self, connection: Any) -> None:
        model = f"claude-{new_id()}"
        self.model, self.keys = model, Keys("gate")
        self.names = limit_scripts.acquire_rate_limit(
            self.keys, model, id="", first_calls=0, lost_after_ms=0
        ).keys
        self.connection = connection

    def admit(self, id: str, *, lost_after_ms: int = LOST_AFTER_MS) -> int:
        """0 to go on, else the ms to wait."""
        return limit_scripts.acquire_rate_limit(
            self.keys, self.model, id=id, first_calls=FIRST_CALLS, lost_after_ms=lost_after_ms
        ).run(self.connection)

    def report(
        self,
        id: str,
        limit: RequestLimit | None = None,
        *,
        refused: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        limit_scripts.report_rate_limit(
            self.keys,
            self.model,
            id=id,
            refused=refused,
            retry_after_ms=retry_after_ms,
            limit=limit,
        ).run(self.connection)

    def unlimited(self) -> "Gate":
        """One call was made, and the API said nothing."""
        assert self.admit("first") == 0
        self.report("first")
        return self

    def limited(self, limit: int, remaining: int, full_in_ms: int = 60_000) -> "Gate":
        """One call was made, and this is what the API said."""
        assert self.admit("first") == 0
        self.report("first", RequestLimit(limit, remaining, full_in_ms))
        return self


@pytest.fixture
def gate(penstock_redis: EmbeddedRedis) -> Iterator[Gate]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield Gate(connection)


def ids(count: int, name: str = "r") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


def test_while_nothing_is_known_only_a_few_calls_are_under_way(gate: Gate) -> None:
    assert [gate.admit(id) for id in ids(FIRST_CALLS)] == [0] * FIRST_CALLS
    assert gate.admit("one more") > 0


def test_an_answer_that_names_no_limit_opens_the_gate_for_all(gate: Gate) -> None:
    gate.unlimited()
    assert {gate.admit(id) for id in ids(5 * FIRST_CALLS)} == {0}


def test_a_refusal_alone_does_not_mean_that_there_is_no_limit(gate: Gate) -> None:
    for id in ids(FIRST_CALLS):
        gate.admit(id)
    gate.report("r0", refused=True)
    assert gate.admit("one") == 0
    assert gate.admit("one more") > 0


def test_what_the_api_has_left_is_spent_once_by_all_workers_together(gate: Gate) -> None:
    gate.limited(50, 7)
    waits = [gate.admit(id) for pair in zip(ids(9, "a"), ids(9, "b"), strict=True) for id in pair]
    assert waits[:7] == [0] * 7
    assert all(waits[7:])


def test_calls_without_an_answer_yet_count_against_what_is_left(gate: Gate) -> None:
    assert [gate.admit(id) for id in ids(4)] == [0] * 4
    gate.report("r0", RequestLimit(50, 5, 60_000))
    assert [gate.admit(id) for id in ids(2, "x")] == [0] * 2
    assert gate.admit("one more") > 0


def test_everybody_who_waits_has_a_turn_of_his_own(gate: Gate) -> None:
    gate.limited(60, 0)
    waits = [gate.admit(id) for id in ids(5)]
    apart = [later - earlier for earlier, later in pairwise(waits)]
    assert all(abs(each - 1050) < 100 for each in apart), waits


def test_whoever_comes_too_early_keeps_his_turn(gate: Gate) -> None:
    gate.limited(60, 0)
    first, _, second = gate.admit("early"), gate.admit("other"), gate.admit("early")
    assert 0 < second <= first


def test_a_turn_that_has_come_is_taken_once(gate: Gate) -> None:
    gate.limited(600, 0, full_in_ms=60_000)
    assert gate.admit("r") > 0
    wait_until(lambda: gate.admit("r") == 0, what="its turn")
    assert gate.admit("r") > 0


def test_retry_after_closes_the_gate_for_everybody(gate: Gate) -> None:
    gate.unlimited()
    gate.report("r", refused=True, retry_after_ms=30_000)
    assert all(25_000 < gate.admit(id) <= 35_000 for id in ids(3))


def test_a_shorter_retry_after_does_not_open_what_a_longer_one_closed(gate: Gate) -> None:
    gate.unlimited()
    gate.report("r", refused=True, retry_after_ms=30_000)
    gate.report("s", refused=True, retry_after_ms=1)
    assert gate.admit("one more") > 20_000


def test_behind_a_retry_after_requests_come_one_after_the_other(gate: Gate) -> None:
    gate.limited(60, 40)
    gate.report("r", refused=True, retry_after_ms=200)
    waits = [gate.admit(id) for id in ids(4)]
    assert all(later > earlier for earlier, later in pairwise(waits))


def test_a_call_whose_worker_died_does_not_hold_its_place_for_ever(gate: Gate) -> None:
    for id in ids(FIRST_CALLS):
        gate.admit(id, lost_after_ms=1)
    wait_until(lambda: gate.admit("one more") == 0, what="the lost calls to be forgotten")


def test_nothing_of_a_gate_lives_for_ever(gate: Gate) -> None:
    gate.limited(60, 0)
    gate.admit("waits")
    gate.report("r", refused=True, retry_after_ms=1000)
    lives = [gate.connection.ttl(name) for name in gate.names]
    assert all(life == -2 or 0 < life <= 3600 for life in lives)
    assert lives[0] > 0
    assert lives[2] > 0


def test_models_have_gates_of_their_own(gate: Gate) -> None:
    gate.unlimited()
    gate.report("r", refused=True, retry_after_ms=30_000)
    assert Gate(gate.connection).admit("r") == 0


def test_the_real_gate_waits_for_a_redis_that_is_away() -> None:
    from penstock.settings import ClientSettings
    from penstock.store.connection import connect_async
    from tasks.streams.rate_limiter import Gate as RealGate

    with EmbeddedRedis() as server:
        settings = ClientSettings.load(redis_url=server.url)
        server.kill()

        async def ask() -> float:
            connection = connect_async(settings)
            gate = RealGate(connection, settings.keys)
            await gate.report("m", "r", {})  # advice; nothing waits for it
            asked = asyncio.ensure_future(gate.wait_s("m", "r"))
            with EmbeddedRedis(port=server.port):
                waited = await asked
                await connection.aclose()
            return waited

        assert asyncio.run(ask()) == 0


def in_a_minute(seconds: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()


NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "expected"),
    [
        ("60", "12", in_a_minute(48), RequestLimit(60, 12, 48_000)),
        ("60", "60", in_a_minute(-5), RequestLimit(60, 60, 0)),
        ("60", "12", "2026-01-01T00:00:48Z", RequestLimit(60, 12, 48_000)),
        ("0", "0", in_a_minute(1), None),
        ("many", "12", in_a_minute(1), None),
        ("60", "12", "soon", None),
    ],
)
def test_limits_are_read_from_the_apis_headers(
    limit: str, remaining: str, reset: str, expected: RequestLimit | None
) -> None:
    name = "anthropic-ratelimit-requests"
    headers = {f"{name}-limit": limit, f"{name}-remaining": remaining, f"{name}-reset": reset}
    assert limit_of(headers, NOW) == expected
    assert limit_of({}, NOW) is None
