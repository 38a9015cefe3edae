"""The create step over a real Redis and the simulator: what is sent, once, and what is found."""

from collections.abc import Iterator

import anthropic
import pytest

from penstock.embedded import EmbeddedRedis
from penstock.shards import Shard
from penstock.simulator.control import Control
from penstock.simulator.process import simulator
from tasks.batch_create import CreateStep
from tests.contract.jobs import Desk, api_at, params


@pytest.fixture(scope="module")
def started() -> Iterator[Control]:
    with simulator(batch_seconds=3600) as control:
        yield control


@pytest.fixture
def control(started: Control) -> Control:
    started.reset()
    return started


@pytest.fixture
def desk(penstock_redis: EmbeddedRedis) -> Iterator[Desk]:
    desk = Desk(penstock_redis)
    yield desk
    desk.close()


@pytest.fixture
def api(control: Control) -> Iterator[anthropic.Anthropic]:
    with api_at(control) as api:
        yield api


@pytest.fixture
def create(desk: Desk, api: anthropic.Anthropic) -> CreateStep:
    return CreateStep(desk.settings, api)


def test_a_shard_becomes_one_batch(desk: Desk, create: CreateStep, control: Control) -> None:
    id = desk.submit([params("a"), params("b"), params("c")])
    step = desk.step(create.run, id)
    [batch] = control.batches(with_lines=True)
    shard = desk.shard(id)
    assert step.countdown_s is None
    assert (shard.state, shard.batch_id, shard.sure) == ("in_progress", batch["id"], True)
    assert [line[0] for line in batch["lines"]] == [f"{shard.nonce}-{n:06d}" for n in range(3)]
    assert desk.connection.get(desk.settings.keys.bound(batch["id"])) == f"{id}/0".encode()


def test_a_lost_answer_is_found(desk: Desk, create: CreateStep, control: Control) -> None:
    id = desk.submit([params("a")])
    control.fault(commit_then_drop=True, path="/v1/messages/batches")
    step = desk.step(create.run, id)
    assert step.countdown_s
    assert desk.shard(id).over_ms
    step = desk.step(create.run, id)
    assert step.countdown_s is None
    [batch] = control.batches()
    shard: Shard = desk.shard(id)
    assert (shard.batch_id, shard.sure) == (batch["id"], False)
