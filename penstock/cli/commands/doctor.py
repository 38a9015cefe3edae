"""``penstock doctor``: checks a deployment and suggests fixes."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import click

from penstock.access.credentials import header_problem, without_wrapping
from penstock.access.redaction import shown_url
from penstock.cli.text.output import print_line, quantity, styled
from penstock.errors import RedisUnavailable
from penstock.queue import names
from penstock.queue.consumers import find_consumers
from penstock.queue.lengths import lengths_by_priority
from penstock.settings import ClientSettings
from penstock.store.connection import (
    IN_CLUSTER_MODE,
    connect,
    redis_address,
    redis_errors_translated,
)
from penstock.store.server_version import REQUIRED, version_running

#: Share of ``maxmemory`` above which the memory finding is a warning.
MEMORY_WARNING_RATIO: Final = 0.8

#: What the SDK adds to the base URL itself, or a part of it.
_API_PATH: Final = re.compile(r"/v1(/messages(/batches)?)?$")
_START_LOCAL: Final = "to start a local one: penstock up --simulate, without PENSTOCK_REDIS_URL"

Level = Literal["ok", "warn", "error"]
_COLOURS: Final[dict[Level, str]] = {"ok": "green", "warn": "yellow", "error": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    level: Level
    subject: str
    detail: str
    remedy: str = ""


@click.command(short_help="Check the deployment and suggest a fix for each problem.")
def doctor() -> None:
    """Check Redis, the API key, the workers and the queues, and suggest fixes.

    The exit code is 1 if there is an error; warnings do not count.

    \b
      PENSTOCK_REDIS_URL=redis://10.0.0.5:6379/0 penstock doctor
    """
    exit_code = 0
    for finding in _findings(ClientSettings.load()):
        mark = styled(f"{finding.level:<7}", sys.stdout, fg=_COLOURS[finding.level])
        print_line(f"{mark}{finding.subject:<13}{finding.detail}")
        if finding.remedy:
            print_line(f"{'':<20}→ {finding.remedy}")
        exit_code = max(exit_code, finding.level == "error")
    sys.exit(exit_code)


def _findings(settings: ClientSettings) -> Iterator[Finding]:
    connection = connect(settings)
    try:
        with redis_errors_translated(settings):
            info = connection.info()
            lengths = {
                queue: sum(lengths_by_priority(connection, queue, settings.key_prefix).values())
                for queue in names.QUEUES
            }
    except RedisUnavailable as error:
        yield Finding("error", "redis", str(error), _START_LOCAL)
        yield from credentials(os.environ, workers=False)
        return
    finally:
        connection.close()
    yield from redis_health(info, redis_address(settings))
    workers = find_consumers(settings)
    yield from credentials(os.environ, workers=any(workers.values()))
    for queue in names.QUEUES:
        yield queue_health(queue, workers[queue], lengths[queue])


def redis_health(info: Mapping[str, Any], address: str) -> Iterator[Finding]:
    """Check the version, eviction, persistence and memory in the reply to INFO."""
    version = version_running(info)
    yield (
        Finding("ok", "redis", f"{version} at {address}")
        if version.has_waitaof
        else Finding(
            "error",
            "redis",
            f"{version} at {address}: too old for durable batches",
            f"use {REQUIRED}: on this one, batch workers refuse to start",
        )
    )
    if info.get("cluster_enabled"):
        yield Finding("error", "cluster", f"Redis {IN_CLUSTER_MODE}")
    policy = info.get("maxmemory_policy", "unknown")
    yield (
        Finding("ok", "eviction", policy)
        if policy == "noeviction"
        else Finding(
            "error",
            "eviction",
            f"{policy}: Redis deletes answers and queues when it is full",
            "redis-cli config set maxmemory-policy noeviction; set it in redis.conf as well",
        )
    )
    yield (
        Finding("ok", "persistence", "append-only file")
        if info.get("aof_enabled")
        else Finding(
            "warn",
            "persistence",
            "no append-only file: a restart loses all writes since the last snapshot",
            "redis-cli config set appendonly yes; set it in redis.conf as well",
        )
    )
    yield _memory(info)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    detail = f"{used / 1e6:.1f} MB used" + (f" of {limit / 1e6:.0f} MB" if limit else ", no limit")
    if limit and used > MEMORY_WARNING_RATIO * limit:
        return Finding("warn", "memory", detail, "raise maxmemory, or lower PENSTOCK_RETENTION_S")
    return Finding("ok", "memory", detail)


def credentials(env: Mapping[str, str], *, workers: bool) -> Iterator[Finding]:
    """Check the API key and address that a worker started from this shell would use."""
    found = [name for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN") if env.get(name)]
    problems = [f"{name} {what}" for name in found if (what := _key_problem(env[name]))]
    if problems:
        yield Finding("error", "api key", "; ".join(problems), "set it again, to the key alone")
    elif found:
        yield Finding("ok", "api key", " and ".join(found))
    else:
        yield Finding(
            "warn" if workers else "error",
            "api key",
            "not set in this shell" + ("; only workers need it" if workers else ""),
            "" if workers else "set ANTHROPIC_API_KEY in the environment of the workers",
        )
    if url := env.get("ANTHROPIC_BASE_URL"):
        yield base_url(url)


def _key_problem(key: str) -> str:
    key = without_wrapping(key)
    return header_problem(key) if key else "is blank"


def base_url(url: str) -> Finding:
    """Check ANTHROPIC_BASE_URL, to which the SDK adds ``/v1/messages``."""
    shown = shown_url(without_wrapping(url))
    parts = urlsplit(shown)
    detail = f"{shown} (ANTHROPIC_BASE_URL)"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.netloc == "…":
        problem, fix = "it is not an address", "set it to https:// or http:// with a host"
    elif end := _API_PATH.search(shown.rstrip("/")):
        problem = f"calls go to {shown.rstrip('/')}/v1/messages"
        fix = f"set ANTHROPIC_BASE_URL={shown[: end.start()]}"
    else:
        return Finding("ok", "api", detail)
    return Finding("error", "api", f"{detail}: {problem}", fix)


def queue_health(queue: str, workers: Iterable[str], waiting: int) -> Finding:
    """Check that a queue has a worker."""
    running = sorted(workers)
    if running:
        count = quantity(len(running), "worker")
        return Finding("ok", queue, f"{waiting:,} queued, {count}: {', '.join(running)}")
    detail = f"{waiting:,} queued, no worker"
    return Finding("error", queue, detail, f"to start one: penstock worker {queue}")
