"""shard_claim and shard_write against what their headers promise, and `ClaimedShard` on top."""

import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import redis

from penstock import events
from penstock.embedded import EmbeddedRedis
from penstock.ids import new_id
from penstock.jobs import JobRecords
from penstock.keys import JobKeys
from penstock.records import now_ms
from penstock.scripts import script
from penstock.settings import ClientSettings
from penstock.shards import Counts, Shard
from penstock.states import State
from tasks.shard import ClaimedShard, Fenced, NotClaimed

SETTINGS = ClientSettings.load(key_prefix="contract", batch_ttl_s=1_000, batch_retention_s=50)
EVENT = b'{"type":"penstock.progress"}'


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection


@pytest.fixture
def keys(connection: Any) -> Iterator[JobKeys]:
    """The keys of a job with one spooled shard."""
    records, id = JobRecords(connection, SETTINGS), new_id()
    params = {
        "model": "claude-haiku-4-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x"}],
    }
    records.submit(id, *records.spool(id, [{"custom_id": "a", "params": params}]))
    keys = SETTINGS.keys.job(id)
    yield keys
    records.discard(id)


def claim(connection: Any, keys: JobKeys, worker: str = "w", shard: int = 0) -> Any:
    names = [keys.meta, keys.shards, keys.shard_lease(shard)]
    return script("shard_claim")(connection, names, [shard, worker, 60_000])


def write(
    connection: Any,
    keys: JobKeys,
    epoch: int,
    *,
    record: bytes = b"",
    event: bytes = b"",
    ttl: int = 500,
    release: bool = False,
    final: str = "",
    **meta: Any,
) -> Any:
    fields = [item for pair in meta.items() for item in pair]
    return script("shard_write")(
        connection,
        [keys.meta, keys.shards, keys.log, keys.shard_lease(0), keys.events],
        [0, epoch, record, event, ttl, int(release), final, *fields],
    )


def whole(connection: Any, keys: JobKeys) -> list[Any]:
    return [
        connection.hgetall(keys.meta),
        connection.hgetall(keys.shards),
        connection.xrange(keys.log),
        connection.get(keys.shard_lease(0)),
    ]


def claimed(connection: Any, keys: JobKeys, worker: str = "w") -> Any:
    return ClaimedShard.claim(connection, SETTINGS, job=keys.id, shard=0, worker=worker, lease_s=60)


def test_a_claim_raises_the_shards_epoch_and_sets_the_job_running(
    connection: Any, keys: JobKeys
) -> None:
    verdict, epoch, raw, cancel = claim(connection, keys)
    assert (verdict, epoch, cancel) == (b"claimed", 1, b"")
    assert Shard.parse(raw).requests == 1
    assert connection.hmget(keys.meta, "state", "epoch:0", "epoch") == [b"running", b"1", b"0"]
    assert connection.get(keys.shard_lease(0)) == b"w:1"
    assert 0 < connection.pttl(keys.shard_lease(0)) <= 60_000


def test_a_shard_is_claimed_by_one_at_a_time(connection: Any, keys: JobKeys) -> None:
    claim(connection, keys, "w1")
    before = whole(connection, keys)
    assert claim(connection, keys, "w2") == [b"leased", b"w1:1"]
    assert whole(connection, keys) == before
    connection.delete(keys.shard_lease(0))
    assert claim(connection, keys, "w2")[:2] == [b"claimed", 2]


def test_shards_are_claimed_apart_from_each_other(connection: Any, keys: JobKeys) -> None:
    connection.hset(keys.shards, "1", Shard(number=1).encode())
    assert claim(connection, keys, "w1")[:2] == [b"claimed", 1]
    assert claim(connection, keys, "w2", shard=1)[:2] == [b"claimed", 1]


def test_a_job_or_shard_that_is_not_there_is_gone_and_not_made(
    connection: Any, keys: JobKeys
) -> None:
    before = whole(connection, keys)
    assert claim(connection, keys, shard=5) == [b"gone"]
    assert whole(connection, keys) == before
    other = SETTINGS.keys.job(new_id())
    assert claim(connection, other) == [b"gone"]
    assert write(connection, other, 1, event=EVENT) == [b"fenced"]
    assert not list(connection.scan_iter(f"*{other.id}*"))


@pytest.mark.parametrize("state", ["done", "failed", "canceled"])
def test_an_ended_job_is_neither_claimed_nor_written(
    connection: Any, keys: JobKeys, state: str
) -> None:
    claim(connection, keys)
    connection.hset(keys.meta, "state", state)
    before = whole(connection, keys)
    assert claim(connection, keys) == [b"ended", state.encode()]
    assert write(connection, keys, 1, record=b"{}", event=EVENT, a=1) == [b"fenced"]
    assert whole(connection, keys) == before


def test_a_write_stores_notes_logs_and_publishes(connection: Any, keys: JobKeys) -> None:
    claim(connection, keys)
    with connection.pubsub() as channel:
        channel.subscribe(keys.events)
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        shard = Shard(number=0, state="sending").encode()
        assert write(connection, keys, 1, record=shard, event=EVENT, a=1) == [b"ok", b""]
        published = channel.get_message(timeout=5)["data"]
    assert connection.hget(keys.shards, "0") == shard
    assert connection.hmget(keys.meta, "n", "a") == [b"2", b"1"]
    assert connection.xrange(keys.log)[-1] == (b"0-2", {b"d": published})
    event = events.decode(published)
    assert (event.epoch, event.n, event.type) == (0, 2, "penstock.progress")


def test_a_write_without_an_event_logs_and_publishes_nothing(
    connection: Any, keys: JobKeys
) -> None:
    claim(connection, keys)
    before = whole(connection, keys)
    assert write(connection, keys, 1) == [b"ok", b""]
    assert whole(connection, keys) == before


def test_a_write_renews_every_lifetime(connection: Any, keys: JobKeys) -> None:
    claim(connection, keys)
    write(connection, keys, 1, ttl=5_000)
    assert all(connection.ttl(k) > 4_000 for k in (keys.meta, keys.shards, keys.log))


def test_the_requests_live_as_long_as_their_job(connection: Any, keys: JobKeys) -> None:
    connection.expire(keys.spool(0), 100)
    with claimed(connection, keys) as work:
        work.advance("poll", work.shard.but(polls=1))
    assert connection.ttl(keys.meta) > 900
    assert connection.ttl(keys.spool(0)) > 900


def test_a_zombie_writes_nothing(connection: Any, keys: JobKeys) -> None:
    claim(connection, keys, "w1")
    connection.delete(keys.shard_lease(0))
    claim(connection, keys, "w2")
    before = whole(connection, keys)
    reply = write(connection, keys, 1, record=b"{}", event=EVENT, release=True, final="done", a=1)
    assert reply == [b"fenced"]
    assert whole(connection, keys) == before


def test_the_answer_tells_of_a_wish_to_cancel(connection: Any, keys: JobKeys) -> None:
    claim(connection, keys)
    JobRecords(connection, SETTINGS).cancel(keys.id, "alice")
    assert write(connection, keys, 1) == [b"ok", b"alice"]
    connection.delete(keys.shard_lease(0))
    assert claim(connection, keys)[3] == b"alice"


def test_the_end_and_the_release_come_with_the_write(connection: Any, keys: JobKeys) -> None:
    claim(connection, keys)
    write(connection, keys, 1, event=EVENT, release=True, final="done", ttl=50)
    assert connection.hget(keys.meta, "state") == b"done"
    assert not connection.exists(keys.shard_lease(0))
    assert all(0 < connection.ttl(k) <= 50 for k in (keys.meta, keys.shards, keys.log))


def test_events_of_shards_that_are_written_at_once_are_numbered_densely(
    penstock_redis: EmbeddedRedis, connection: Any, keys: JobKeys
) -> None:
    for number in range(1, 4):
        connection.hset(keys.shards, str(number), Shard(number=number).encode())

    def work(number: int) -> None:
        with (
            redis.Redis.from_url(penstock_redis.url) as own,
            ClaimedShard.claim(
                own, SETTINGS, job=keys.id, shard=number, worker=f"w{number}", lease_s=60
            ) as shard,
        ):
            for polls in range(50):
                shard.advance("poll", shard.shard.but(polls=polls))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = [events.decode(fields[b"d"]) for _, fields in connection.xrange(keys.log)]
    assert [event.n for event in log] == list(range(1, 202))
    shards = [Shard.parse(raw) for raw in connection.hvals(keys.shards)]
    assert {shard.polls for shard in shards} == {49}


def test_a_claimed_shard_is_free_again_behind_its_block(connection: Any, keys: JobKeys) -> None:
    with claimed(connection, keys, "w1") as work:
        assert connection.get(keys.shard_lease(0)) == b"w1:1"
        with pytest.raises(NotClaimed, match="leased"), claimed(connection, keys, "w2"):
            pytest.fail("two workers at one shard")
        work.write(work.shard.but(state="sending", sent_ms=now_ms()))
    assert not connection.exists(keys.shard_lease(0))
    with claimed(connection, keys, "w2") as work:
        assert work.shard.state == "sending"
        assert [orjson.loads(line)["custom_id"] for line in work.requests()] == ["a"]
        assert work.all_shards() == [work.shard]


def test_a_claimed_shard_is_free_again_when_its_step_fails(connection: Any, keys: JobKeys) -> None:
    with pytest.raises(ZeroDivisionError), claimed(connection, keys):
        1 / 0  # noqa: B018
    assert not connection.exists(keys.shard_lease(0))


def test_a_shard_that_was_taken_over_is_not_released_by_its_zombie(
    connection: Any, keys: JobKeys
) -> None:
    with claimed(connection, keys, "w1") as work:
        connection.delete(keys.shard_lease(0))
        claim(connection, keys, "w2")
        with pytest.raises(Fenced):
            work.advance("create", work.shard)
    assert connection.get(keys.shard_lease(0)) == b"w2:2"


def test_a_claimed_shard_can_end_its_job(connection: Any, keys: JobKeys) -> None:
    with claimed(connection, keys) as work:
        end = {"type": events.END, "state": State.DONE}
        work.write(
            work.shard.but(counts=Counts(succeeded=1)),
            event=end,
            final=State.DONE,
            release=True,
            ended_ms=5,
        )
    job = JobRecords(connection, SETTINGS).read(keys.id)
    assert (job.state, job.counts, job.record.fields["ended_ms"]) == (
        State.DONE,
        Counts(succeeded=1),
        "5",
    )
    with pytest.raises(NotClaimed, match="ended"), claimed(connection, keys):
        pytest.fail("claimed an ended job")
