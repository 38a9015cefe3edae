"""What servers print about their version, and which of them know WAITAOF."""

from typing import Any

import pytest

from penstock.store.server_version import (
    MIN_REDIS,
    REQUIRED,
    ServerVersion,
    version_printed,
    version_running,
)

JEMALLOC = "malloc=jemalloc-5.3.0 bits=64"


@pytest.mark.parametrize(
    ("line", "version", "has_waitaof"),
    [
        (
            "Redis server v=6.2.5 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64",
            "Redis 6.2.5",
            False,
        ),
        (
            f"Redis server v=7.0.15 sha=00000000:0 {JEMALLOC} build=ae4d7c971a948f0",
            "Redis 7.0.15",
            False,
        ),
        (
            f"Redis server v=7.2.4 sha=00000000:0 {JEMALLOC} build=4a33ab3ec422ece7",
            "Redis 7.2.4",
            True,
        ),
        (
            f"Redis server v=7.4.10 sha=00000000:0 {JEMALLOC} build=d70b7db78d693e15",
            "Redis 7.4.10",
            True,
        ),
        (
            f"Redis server v=8.2.3 sha=b5d43ceb:0 {JEMALLOC} build=a4a1616166d42ee6",
            "Redis 8.2.3",
            True,
        ),
        (f"Redis server v=255.255.255 sha=00000000:0 {JEMALLOC}", "Redis 255.255.255", True),
        (
            f"Server v=7.2.12 sha=00000000:0 {JEMALLOC} build=65f5b4bb2651ba8d",
            "Valkey 7.2.12",
            True,
        ),
        ("Valkey server v=8.0.3 sha=00000000:0 malloc=libc bits=64", "Valkey 8.0.3", True),
        (
            "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150",
            "Valkey 9.1.2",
            True,
        ),
    ],
)
def test_a_version_line_gives_product_and_version(
    line: str, version: str, has_waitaof: bool
) -> None:
    found = version_printed(f"{line}\n")
    assert found is not None
    assert str(found) == version
    assert found.has_waitaof is has_waitaof


def test_a_version_line_may_follow_a_warning() -> None:
    output = "WARNING: vm.overcommit_memory is not 1\nRedis server v=7.2.4 sha=00000000:0\n"
    assert version_printed(output) == ServerVersion("Redis", "7.2.4")


@pytest.mark.parametrize(
    "output",
    [
        "",
        "\n",
        "Redis server v=\n",
        "Redis server v=seven\n",
        "redis-cli 7.0.15\n",
        "KeyDB server v=6.3.4 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64\n",
        "not a Redis server v=7.2.4\n",
        "\x7fELF\ufffd\x00\n",
    ],
)
def test_other_output_gives_no_version(output: str) -> None:
    assert version_printed(output) is None


@pytest.mark.parametrize(
    ("info", "version", "has_waitaof"),
    [
        ({"redis_version": "7.0.15"}, "Redis 7.0.15", False),
        ({"redis_version": "7.2.0"}, "Redis 7.2.0", True),
        ({"redis_version": "10.0.1"}, "Redis 10.0.1", True),
        ({"redis_version": 7.4}, "Redis 7.4", True),  # the driver reads it as a number
        (
            {"server_name": "valkey", "valkey_version": "9.1.2", "redis_version": "7.2.4"},
            "Valkey 9.1.2",
            True,
        ),
    ],
)
def test_info_gives_product_and_version(
    info: dict[str, Any], version: str, has_waitaof: bool
) -> None:
    found = version_running(info)
    assert str(found) == version
    assert found.has_waitaof is has_waitaof


def test_messages_name_the_minimum_that_is_checked() -> None:
    assert f"Redis {MIN_REDIS[0]}.{MIN_REDIS[1]} or later" in REQUIRED
