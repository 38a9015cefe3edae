"""``penstock doctor``: what is wrong, and what to do about it."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import click

from penstock.cli.text.output import print_line, styled
from penstock.errors import RedisUnavailable
from penstock.queue import names
from penstock.settings import ClientSettings
from penstock.store.connection import Connection, connect, redis_address, redis_errors_translated

#: How long workers have to answer.
INSPECT_TIMEOUT_S: Final = 2.0
#: Above this share of ``maxmemory`` there is little room left for answers.
MEMORY_WARNING_RATIO: Final = 0.8

Level = Literal["ok", "warn", "wrong"]
_COLOURS: Final[dict[Level, str]] = {"ok": "green", "warn": "yellow", "wrong": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has shown."""

    level: Level
    subject: str
    detail: str
    remedy: str = ""


@click.command(short_help="Find out what is wrong, and what to do about it.")
def doctor() -> None:
    """Look at Redis, the key, the workers and the queues, and say what to do about each fault.

    The exit code is 1 if anything is wrong; warnings do not count.

    \b
      PENSTOCK_REDIS_URL=redis://10.0.0.5:6379/0 penstock doctor
    """
    worst = 0
    for finding in _findings(ClientSettings.load()):
        mark = styled(f"{finding.level:<7}", sys.stdout, fg=_COLOURS[finding.level])
        print_line(f"{mark}{finding.subject:<13}{finding.detail}")
        if finding.remedy:
            print_line(f"{'':<20}→ {finding.remedy}")
        worst = max(worst, finding.level == "wrong")
    sys.exit(worst)


def _findings(settings: ClientSettings) -> Iterator[Finding]:
    connection = connect(settings)
    try:
        with redis_errors_translated(settings):
            info = connection.info()
            lengths = {
                queue: _queue_length(connection, queue, settings.key_prefix)
                for queue in names.QUEUES
            }
    except RedisUnavailable as error:
        yield Finding("wrong", "redis", str(error), "penstock up --simulate starts one here")
        yield from credentials(os.environ, workers=False)
        return
    finally:
        connection.close()
    yield from redis_health(info, redis_address(settings))
    workers = _workers(settings)
    yield from credentials(os.environ, workers=any(workers.values()))
    for queue in names.QUEUES:
        yield queue_health(queue, workers[queue], lengths[queue])


def redis_health(info: Mapping[str, Any], address: str) -> Iterator[Finding]:
    """What Redis's own INFO says about its fitness."""
    server = info.get("server_name", "redis")
    version = info.get(f"{server}_version", info.get("redis_version"))
    yield Finding("ok", "redis", f"{server} {version} at {address}")
    policy = info.get("maxmemory_policy", "unknown")
    yield (
        Finding("ok", "eviction", policy)
        if policy == "noeviction"
        else Finding(
            "wrong",
            "eviction",
            f"{policy}: a full Redis throws away answers and queues",
            "redis-cli config set maxmemory-policy noeviction, and the same in redis.conf",
        )
    )
    yield (
        Finding("ok", "persistence", "append-only file")
        if info.get("aof_enabled")
        else Finding(
            "warn",
            "persistence",
            "no append-only file: a restart loses what was queued since the last snapshot",
            "redis-cli config set appendonly yes, and the same in redis.conf",
        )
    )
    yield _memory(info)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    detail = f"{used / 1e6:.1f} MB used, " + (f"of {limit / 1e6:.0f} MB" if limit else "no limit")
    if limit and used > MEMORY_WARNING_RATIO * limit:
        return Finding("warn", "memory", detail, "raise maxmemory, or lower PENSTOCK_RETENTION_S")
    return Finding("ok", "memory", detail)


def credentials(env: Mapping[str, str], *, workers: bool) -> Iterator[Finding]:
    """The key and the address that a worker started from here would use."""
    found = [name for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN") if env.get(name)]
    if found:
        yield Finding("ok", "api key", " and ".join(found))
    else:
        yield Finding(
            "warn" if workers else "wrong",
            "api key",
            "none set here" + ("; only workers need one" if workers else ""),
            "" if workers else "export ANTHROPIC_API_KEY=… where the workers start",
        )
    if url := env.get("ANTHROPIC_BASE_URL"):
        yield Finding("ok", "api", f"{url} (ANTHROPIC_BASE_URL)")


def queue_health(queue: str, workers: Iterable[str], waiting: int) -> Finding:
    """Whether somebody works on a queue."""
    alive = sorted(workers)
    detail = f"{waiting} waiting, " + (f"worker {', '.join(alive)}" if alive else "no worker")
    if alive:
        return Finding("ok", queue, detail)
    return Finding("wrong", queue, detail, f"penstock worker {queue}")


def _queue_length(connection: Connection, queue: str, key_prefix: str) -> int:
    return sum(int(connection.llen(name)) for name in names.queue_keys(queue, key_prefix))


def _workers(settings: ClientSettings) -> dict[str, list[str]]:
    """Queue → names of the workers that take from it, as they answer themselves."""
    from celery import Celery

    from penstock.queue.wakeups import transport_options

    found: dict[str, list[str]] = {queue: [] for queue in names.QUEUES}
    with Celery("penstock-doctor", set_as_current=False) as app:
        app.conf.update(
            broker_url=settings.redis_url.get_secret_value(),
            broker_transport_options=transport_options(settings),
        )
        answers = app.control.inspect(timeout=INSPECT_TIMEOUT_S).active_queues() or {}
    for worker, queues in answers.items():
        for queue in queues:
            if queue["name"] in found:
                found[queue["name"]].append(worker)
    return found
