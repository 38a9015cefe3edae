"""A deployment on which the steps of batch jobs are tested."""

from collections.abc import Iterator

import pytest

from penstock.local.embedded_redis import EmbeddedRedis
from penstock.simulator.control import Control
from tests.contract.tasks.batches.batch_stage import BatchStage


@pytest.fixture
def stage(penstock_redis: EmbeddedRedis, penstock_control: Control) -> Iterator[BatchStage]:
    stage = BatchStage(penstock_redis, penstock_control)
    yield stage
    stage.redis.flushdb()
    stage.close()
