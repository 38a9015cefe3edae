"""Durable writes: a Redis that cannot promise them, and one in cluster mode."""

from collections.abc import Iterator

import pytest
import redis

from config.settings import WorkerSettings
from penstock.errors import RedisUnavailable
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.store.connection import connect, redis_errors_translated
from penstock.store.durability import NotDurable, check_durable
from tests.contract.jobs import Desk, params
from workers.startup import StartRefused, check_durability, check_redis


@pytest.fixture
def desk(penstock_redis: EmbeddedRedis) -> Iterator[Desk]:
    desk = Desk(penstock_redis)
    yield desk
    desk.close()


@pytest.fixture
def denied(penstock_redis: EmbeddedRedis) -> Iterator[str]:
    """A user for whom WAITAOF does not work, as before Redis 7.2."""
    with redis.Redis.from_url(penstock_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", "old", "on", ">pw", "~*", "&*", "+@all", "-waitaof")
        yield f"redis://old:pw@127.0.0.1:{penstock_redis.port}/0"
        admin.execute_command("ACL", "DELUSER", "old")


def test_a_server_with_waitaof_is_durable(desk: Desk) -> None:
    check_durable(desk.connection)


def test_a_batch_worker_refuses_a_server_without_waitaof(denied: str) -> None:
    with pytest.raises(StartRefused, match="WAITAOF"):
        check_durability(WorkerSettings.load(redis_url=denied))


def test_no_durable_write_is_accepted_without_waitaof(
    penstock_redis: EmbeddedRedis, denied: str
) -> None:
    desk = Desk(penstock_redis, redis_url=denied)
    id = desk.submit([params()])
    with desk.claimed(id) as work, pytest.raises(NotDurable, match="no batch is created"):
        work.write(work.shard.evolve(sent_ms=1), durable=True)
    desk.close()


class ClusterRedis(EmbeddedRedis):
    def _configuration(self) -> str:
        return super()._configuration() + "cluster-enabled yes\n"


def test_a_redis_in_cluster_mode_is_named_at_start_and_by_the_first_call() -> None:
    with ClusterRedis() as server:
        settings = WorkerSettings.load(redis_url=server.url)
        with pytest.raises(StartRefused, match="is in cluster mode"):
            check_redis(settings)
        connection = connect(settings)
        with (
            pytest.raises(RedisUnavailable, match="is in cluster mode"),
            redis_errors_translated(settings),
        ):
            connection.get("key")
        connection.close()
