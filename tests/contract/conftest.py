"""Contract tests have their own Redis, so that no worker of another test takes their requests."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from penstock.simulator.process import simulator
from tests.contract.jobs import Desk, params
from tests.contract.penstock.store.held import Held
from tests.contract.tasks.batches.creating import Creating


@pytest.fixture(scope="session")
def penstock_redis() -> Iterator[EmbeddedRedis]:
    """A Redis server to which no worker is connected."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    """A redis-py client, for a look at what is stored."""
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection


@pytest.fixture(scope="session")
def quiet_simulator() -> Iterator[Control]:
    """A simulator whose batches end when a test says so."""
    with simulator(batch_seconds=3600) as control:
        yield control


@pytest.fixture
def creating(penstock_redis: EmbeddedRedis, quiet_simulator: Control) -> Iterator[Creating]:
    """A create step in a deployment of its own, with an API that has no other batches."""
    quiet_simulator.reset()
    creating = Creating(penstock_redis, quiet_simulator)
    yield creating
    creating.close()


@pytest.fixture
def held(penstock_redis: EmbeddedRedis) -> Iterator[Held]:
    """Shard 0 of a job, for the scripts of its claim."""
    desk = Desk(penstock_redis)
    yield Held(desk, desk.submit([params()]))
    desk.close()
