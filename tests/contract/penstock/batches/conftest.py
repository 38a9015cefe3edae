"""Clients and jobs for the tests of the batch client."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from penstock.batches import submission
from penstock.batches.client import Batches
from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from tests.connections import redis_of
from tests.contract.penstock.batches.blocking import BlockingBatches
from tests.contract.tasks.batches.hand_made import HandMadeJob


@pytest.fixture
def client(penstock_redis: EmbeddedRedis) -> Iterator[Client]:
    """A client whose shards hold a few requests each, in a database of its own."""
    url = penstock_redis.url.removesuffix("/0") + "/7"
    with Client(url, shard_requests=4) as client:
        yield client
        redis_of(client).flushdb()


@pytest.fixture
def job(client: Client) -> HandMadeJob:
    """A job of ten requests in several shards."""
    made = HandMadeJob(client, 10)
    assert len(made.shards) > 2
    return made


@pytest.fixture(params=["sync", "async"])
def batches(request: pytest.FixtureRequest, client: Client) -> Iterator[Batches]:
    """``client.messages.batches`` of a `Client`, and of an `AsyncClient`."""
    if request.param == "sync":
        yield client.messages.batches
        return
    url = client.settings.redis_url.get_secret_value()
    asynchronous: Any
    with BlockingBatches(url, shard_requests=4) as asynchronous:
        yield asynchronous


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    """A connection to Redis; what producers have written is removed afterwards."""
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection
        for key in connection.scan_iter("submission:*"):
            connection.delete(key)


@pytest.fixture
def producer(penstock_redis: EmbeddedRedis, connection: Any) -> Iterator[Client]:
    """A client that submits jobs under a prefix of its own."""
    with Client(penstock_redis.url, key_prefix="submission", batch_ttl_s=7_200) as client:
        yield client


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that a few requests fill several."""
    monkeypatch.setattr(submission, "CHUNK_BYTES", 300)
