"""Chunks of a job in Redis and in files: stored, read, refreshed, and removed."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from config.settings import WorkerSettings
from penstock.client import Client
from penstock.clock import now_ms
from penstock.errors import (
    ConfigurationError,
    InvalidRequest,
    MissingDependency,
    SpoolUnavailable,
)
from penstock.ids import new_id
from penstock.keys import JobKeys, Keys
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.settings import ClientSettings
from penstock.spool.chunks import ChunkMissing, ChunkStore
from penstock.spool.stores import open_chunk_store, remove_orphans
from penstock.store.connection import connect_async
from penstock.testing import wait_until
from workers.reaper import Reaper

SHARED = Keys("spool")
MODEL = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def connection(penstock_redis: EmbeddedRedis) -> Iterator[Any]:
    with redis.Redis.from_url(penstock_redis.url) as connection:
        yield connection
        for key in connection.scan_iter("spool:*"):
            connection.delete(key)


@pytest.fixture
def keys() -> JobKeys:
    return SHARED.job(new_id())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a spool"


@pytest.fixture(params=["redis", "file", "memory"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    return {"redis": "", "file": f"file://{folder}", "memory": "memory://spool"}[request.param]


@pytest.fixture
def store(connection: Any, keys: JobKeys, url: str) -> Iterator[ChunkStore]:
    store = open_chunk_store(url, connection, keys, 100)
    yield store
    store.remove_all(["requests-0", "requests-1", "ids-0"])


def requests(count: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"id-{number}", "params": MODEL} for number in range(count)]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def make_due(connection: Any) -> None:
    """Let the deadline of every spool pass."""
    for member in connection.zrange(SHARED.spools, 0, -1):
        connection.zadd(SHARED.spools, {member: 1})


def using(url: str | Path, *former: str) -> ClientSettings:
    """The settings of a process with this spool."""
    address = f"file://{url}" if isinstance(url, Path) else url
    return ClientSettings.load(key_prefix="spool", spool_url=address, former_spool_urls=former)


# -- every store ------------------------------------------------------------------------------


def test_chunks_are_read_in_order_from_any_index_on(store: ChunkStore) -> None:
    chunks = [b"%d" % index * 99 for index in range(11)]
    for index, chunk in enumerate(chunks):
        store.add("requests-0", index, chunk)
    store.add("requests-1", 0, b"another")
    assert list(store.read("requests-0", 11)) == chunks
    assert list(store.read("requests-0", 11, first=7)) == chunks[7:]
    assert list(store.read("requests-0", 3)) == chunks[:3]
    assert list(store.read("requests-0", 0)) == []


def test_a_missing_chunk_is_reported_after_those_before_it(store: ChunkStore) -> None:
    for index in range(2):
        store.add("requests-0", index, b"x")
    reading = store.read("requests-0", 3)
    with pytest.raises(ChunkMissing, match="requests-0: chunk 2 of 3 is missing"):
        list(reading)
    with pytest.raises(ChunkMissing, match="requests-9: chunk 0 of 1"):
        list(store.read("requests-9", 1))


def test_removing_a_name_leaves_the_chunks_of_others(store: ChunkStore) -> None:
    for name in ("requests-0", "ids-0"):
        store.add(name, 0, b"x")
    store.remove(["requests-0", "results-9-9"])
    with pytest.raises(ChunkMissing):
        list(store.read("requests-0", 1))
    assert list(store.read("ids-0", 1)) == [b"x"]
    store.remove([])


def test_a_job_is_submitted_to_any_spool(
    penstock_redis: EmbeddedRedis, connection: Any, url: str
) -> None:
    with Client(penstock_redis.url, key_prefix="spool", spool_url=url) as client:
        job = client.messages.batches.create(requests=requests(5))
        record = connection.hgetall(SHARED.job(job.id).meta)
        assert record[b"spool"].decode() == url
        store = open_chunk_store(url, connection, SHARED.job(job.id), 100)
        assert len(list(store.read("requests-0", job.shards[0].request_chunks))) == 1
        store.remove_all(["requests-0", "ids-0"])


# -- files ------------------------------------------------------------------------------------


def test_files_are_stored_by_job_and_name(connection: Any, keys: JobKeys, folder: Path) -> None:
    store = open_chunk_store(f"file://{folder}/", connection, keys, 100)
    store.add("requests-0", 0, b"x")
    store.add("requests-0", 1, b"y")
    assert files(folder) == [f"{keys.id}/requests-0/{index:06d}" for index in range(2)]
    assert connection.keys("spool:{*") == []


def test_removing_all_chunks_of_a_job_leaves_no_file(
    connection: Any, keys: JobKeys, folder: Path
) -> None:
    store = open_chunk_store(f"file://{folder}", connection, keys, 100)
    store.add("requests-0", 0, b"x")
    store.add("results-0-1", 0, b"of a collector that lost its claim")
    assert connection.zcard(SHARED.spools) == 1
    store.remove_all(["requests-0"])
    assert list(folder.iterdir()) == []
    assert connection.zcard(SHARED.spools) == 0
    store.remove_all(["requests-0"])


def test_an_invalid_request_leaves_no_file(
    penstock_redis: EmbeddedRedis, connection: Any, folder: Path
) -> None:
    with Client(penstock_redis.url, key_prefix="spool", spool_url=f"file://{folder}") as client:
        with pytest.raises(InvalidRequest, match="line 4"):
            client.messages.batches.create(requests=[*requests(3), 5], shard_requests=1)
        assert list(folder.glob("*")) == []
        assert connection.zcard(SHARED.spools) == 0


def test_files_of_a_producer_that_died_are_removed_after_their_deadline(
    connection: Any, keys: JobKeys, folder: Path
) -> None:
    open_chunk_store(f"file://{folder}", connection, keys, 100).add("requests-0", 0, b"x")
    (deadline,) = [score for _, score in connection.zrange(SHARED.spools, 0, -1, withscores=True)]
    assert 90_000 < deadline - now_ms() <= 100_000
    remove_orphans(connection, using(folder))
    assert len(files(folder)) == 1
    make_due(connection)
    remove_orphans(connection, using(folder))
    assert list(folder.iterdir()) == []
    assert connection.zcard(SHARED.spools) == 0


def test_files_of_a_job_are_not_removed_while_it_has_a_record(
    connection: Any, keys: JobKeys, folder: Path
) -> None:
    open_chunk_store(f"file://{folder}", connection, keys, 100).add("requests-0", 0, b"x")
    connection.hset(keys.meta, "state", "running")
    connection.expire(keys.meta, 5_000)
    make_due(connection)
    remove_orphans(connection, using(folder))
    assert len(files(folder)) == 1
    (deadline,) = [score for _, score in connection.zrange(SHARED.spools, 0, -1, withscores=True)]
    assert 4_900_000 < deadline - now_ms() <= 5_000_000
    connection.delete(keys.meta)  # as if it had expired
    make_due(connection)
    remove_orphans(connection, using(folder))
    assert files(folder) == []


def test_refreshing_chunks_moves_the_deadline(connection: Any, keys: JobKeys, folder: Path) -> None:
    store = open_chunk_store(f"file://{folder}", connection, keys, 100)
    store.add("requests-0", 0, b"x")
    assert store.refresh_ttl(["requests-0"], 9_000)
    (deadline,) = [score for _, score in connection.zrange(SHARED.spools, 0, -1, withscores=True)]
    assert 8_900_000 < deadline - now_ms() <= 9_000_000


def test_the_reaper_removes_orphaned_files(
    penstock_redis: EmbeddedRedis, connection: Any, keys: JobKeys, folder: Path
) -> None:
    settings = WorkerSettings.load(redis_url=penstock_redis.url, key_prefix="spool")
    open_chunk_store(f"file://{folder}", connection, keys, 100).add("requests-0", 0, b"x")
    make_due(connection)

    async def reap() -> None:
        tidy = partial(remove_orphans, connection, using(folder))
        shared = connect_async(settings)
        reaper = Reaper(settings, shared, "w", print, print, tidy)
        task = asyncio.ensure_future(reaper.run())
        await asyncio.to_thread(wait_until, lambda: not connection.zcard(SHARED.spools))
        task.cancel()
        await asyncio.wait([task])
        await shared.aclose()

    asyncio.run(reap())
    assert list(folder.iterdir()) == []


def test_removing_files_is_tried_again_after_a_failure(connection: Any, keys: JobKeys) -> None:
    connection.zadd(SHARED.spools, {f"{keys.id} nonsense://x": 1})
    remove_orphans(connection, using("nonsense://x"))
    ((member, deadline),) = connection.zrange(SHARED.spools, 0, -1, withscores=True)
    assert member == f"{keys.id} nonsense://x".encode()
    assert deadline > now_ms()


# -- values from Redis that become paths -------------------------------------------------------


@pytest.mark.parametrize(
    "member",
    [
        "{victim}",
        "{id} file://{victim}",
        "{id} file://{spool}/../victim",
        "../victim file://{spool}",
        "{id}/../../victim file://{spool}",
        "{id}%2f..%2f..%2fvictim file://{spool}",
        "{id}\\..\\victim file://{spool}",
        "{id}\0 file://{spool}",
        "/ file://{spool}",
        ". file://{spool}",
        "* file://{spool}",
        " file://{spool}",
        "{id} {spool}",
        "{id} s3://bucket/x",
        "{id} simplecache::file://{victim}",
        "x" * 5_000,
    ],
)
def test_the_index_of_spools_never_deletes_what_is_no_folder_of_a_job(
    connection: Any, keys: JobKeys, folder: Path, tmp_path: Path, member: str
) -> None:
    victim = tmp_path / "victim"
    for place in (victim / keys.id, folder / "another"):
        place.mkdir(parents=True)
        (place / "file").write_text("precious")
    text = member.replace("{id}", keys.id).replace("{spool}", str(folder))
    connection.zadd(SHARED.spools, {text.replace("{victim}", str(victim)): 1, b"\xff \xfe": 1})
    remove_orphans(connection, using(folder))
    assert files(tmp_path) == sorted([f"victim/{keys.id}/file", "a spool/another/file"])
    assert connection.zrange(SHARED.spools, 0, now_ms(), byscore=True) == []


def test_the_spool_of_a_record_is_used_only_if_the_settings_name_it(
    penstock_redis: EmbeddedRedis, connection: Any, folder: Path
) -> None:
    url = f"file://{folder}"
    with Client(penstock_redis.url, key_prefix="spool", spool_url=url) as client:
        job = client.messages.batches.create(requests=requests(1))
        meta = SHARED.job(job.id).meta
    with Client(penstock_redis.url, key_prefix="spool", former_spool_urls=[url]) as later:
        later.messages.batches.cancel(job.id)
        connection.hset(meta, "state", "done")
        assert list(later.messages.batches.results(job.id)) == []
        connection.hset(meta, "spool", f"{url}/../elsewhere")
        with pytest.raises(ConfigurationError, match="PENSTOCK_FORMER_SPOOL_URLS"):
            later.messages.batches.delete(job.id)
        with pytest.raises(ConfigurationError, match="PENSTOCK_FORMER_SPOOL_URLS"):
            list(later.messages.batches.results(job.id))


@pytest.mark.parametrize("linked", ["{id}", "{id}/requests-0", "{id}/requests-0/000000"])
def test_a_link_below_the_spool_is_not_followed(
    connection: Any, keys: JobKeys, folder: Path, tmp_path: Path, linked: str
) -> None:
    outside = tmp_path / "outside"
    link = folder / linked.replace("{id}", keys.id)
    target = outside / "/".join(
        [keys.id, "requests-0", "000000"][len(link.relative_to(folder).parts) :]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    if target != outside:
        target.write_bytes(b"precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    before = files(outside)
    store = open_chunk_store(f"file://{folder}", connection, keys, 100)
    attempts = (
        lambda: list(store.read("requests-0", 1)),
        lambda: store.add("requests-0", 0, b"x"),
        lambda: store.remove(["requests-0"]),
        lambda: store.remove_all([]),
    )
    for attempt in attempts[: 3 if linked == "{id}" else 2]:
        with pytest.raises(SpoolUnavailable, match="has a link at"):
            attempt()
    for attempt in attempts[2:]:
        with suppress(SpoolUnavailable):
            attempt()
    assert files(outside) == before


def test_the_root_of_a_spool_may_be_a_link(
    connection: Any, keys: JobKeys, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    store = open_chunk_store(f"file://{tmp_path}/link", connection, keys, 100)
    store.add("requests-0", 0, b"x")
    assert list(store.read("requests-0", 1)) == [b"x"]
    store.remove_all([])
    assert files(folder) == []


# -- spools that cannot be used ---------------------------------------------------------------


def test_a_spool_url_with_an_unknown_protocol_is_a_configuration_error(
    connection: Any, keys: JobKeys
) -> None:
    with pytest.raises(ConfigurationError, match="PENSTOCK_SPOOL_URL: nonsense://x: "):
        open_chunk_store("nonsense://x", connection, keys, 100)


def test_a_spool_url_whose_package_is_missing_names_the_package(
    connection: Any, keys: JobKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.registry import known_implementations

    what = {"class": "no_such_package.FileSystem", "err": "Install no_such_package to go there"}
    monkeypatch.setitem(known_implementations, "elsewhere", what)
    with pytest.raises(MissingDependency) as caught:
        open_chunk_store("elsewhere://x", connection, keys, 100)
    assert str(caught.value) == (
        "what fsspec needs for elsewhere:// is not installed. Install no_such_package to go there"
    )


def test_without_fsspec_the_error_names_the_extra(
    connection: Any, keys: JobKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(MissingDependency, match=r"pip install 'penstock-celery\[spool\]'"):
        open_chunk_store("file:///x", connection, keys, 100)


def test_a_spool_that_cannot_be_written_is_reported_with_its_url(
    penstock_redis: EmbeddedRedis, connection: Any, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/file"
    (tmp_path / "file").write_text("in the way")
    with (
        Client(penstock_redis.url, key_prefix="spool", spool_url=url) as client,
        pytest.raises(SpoolUnavailable, match="the spool file://"),
    ):
        client.messages.batches.create(requests=requests(3))
    assert connection.zcard(SHARED.jobs) == 0
