"""A deployment on which the steps of batch jobs are tested."""

from collections.abc import Iterator

import pytest

from penstock import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from tests.contract.tasks.batches.batch_stage import BatchStage


@pytest.fixture
def stage(penstock_redis: EmbeddedRedis, penstock_control: Control) -> Iterator[BatchStage]:
    stage = BatchStage(penstock_redis, penstock_control)
    yield stage
    stage.redis.flushdb()
    stage.close()


@pytest.fixture
def client(stage: BatchStage) -> Iterator[Client]:
    settings = stage.settings
    with Client(settings.redis_url.get_secret_value(), key_prefix=settings.key_prefix) as client:
        yield client
