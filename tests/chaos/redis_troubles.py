"""Trouble that a Redis makes while it runs: it refuses, it stalls, and its indexes hold garbage."""

import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

from penstock.keys import Keys

#: A port where nothing answers: a server that replicates from it stays read-only.
_NO_PORT: Final = 1

#: Name → how Redis is brought to refuse, and how it is brought back.
REFUSALS: Final[dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "OOM": (lambda r: r.config_set("maxmemory", "1mb"), lambda r: r.config_set("maxmemory", "0")),
    "READONLY": (
        lambda r: r.execute_command("REPLICAOF", "127.0.0.1", _NO_PORT),
        lambda r: r.execute_command("REPLICAOF", "NO", "ONE"),
    ),
    "NOREPLICAS": (
        lambda r: r.config_set("min-replicas-to-write", "1"),
        lambda r: r.config_set("min-replicas-to-write", "0"),
    ),
    "NOPERM": (
        lambda r: r.execute_command("ACL", "SETUSER", "default", "-evalsha", "-publish"),
        lambda r: r.execute_command("ACL", "SETUSER", "default", "+@all"),
    ),
}


def refuse(connection: Any, rng: Random, seconds: float) -> str:
    """Let Redis refuse for a while, in one of the ways; returns which."""
    name = rng.choice(sorted(REFUSALS))
    begin, end = REFUSALS[name]
    begin(connection)
    try:
        time.sleep(seconds)
    finally:
        end(connection)
    return name


def unblock(connection: Any) -> int:
    """End every blocking command with an error; returns their number."""
    blocked = [client["id"] for client in connection.client_list() if "b" in client["flags"]]
    return sum(bool(connection.client_unblock(int(id), error=True)) for id in blocked)


def stall(connection: Any, rng: Random, seconds: float) -> str:
    """Let Redis answer nothing, or no write, for a while; returns which."""
    everything = rng.random() < 0.5
    connection.client_pause(int(seconds * 1000), all=everything)
    time.sleep(seconds)
    return "all commands" if everything else "writes"


def lie(connection: Any, keys: Keys, rng: Random) -> str:
    """Put garbage into a shared index, or a broken record of another request; returns which."""
    now_ms = int(time.time() * 1000)
    garbage = rng.choice(["", "}{", "a{b}c", "\x00\xff", "x" * 5_000, f"no-such-id-{now_ms}"])
    kind = rng.choice(["live", "live-shards", "wrong type", "priority", "number"])
    id = f"lie-{rng.randrange(10**9)}"
    if kind == "live":
        connection.zadd(keys.live, {garbage: now_ms})
    elif kind == "live-shards":
        connection.zadd(keys.live_shards, {garbage: now_ms, f"{id}/x": now_ms, id: now_ms})
    else:
        meta = keys.request(id).meta
        if kind == "wrong type":
            connection.set(meta, "not a hash", ex=600)
        else:
            field = {"priority": {"priority": "11"}, "number": {"epoch": "many", "n": "-1"}}[kind]
            record = {"state": "queued", "epoch": 0, "n": 1, "kind": "stream", **field}
            connection.hset(meta, mapping=record)
            connection.expire(meta, 600)
        connection.zadd(keys.live, {id: now_ms})
    return kind
