"""The agent of a chaos run: injects one fault after the other, at random moments."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from random import Random
from typing import Any, Final

import redis

from penstock.keys import Keys
from penstock.queue.names import queue_keys
from tests.chaos import redis_troubles
from tests.chaos.world import LEASE_S, World, complaints, pause, resume

#: Kinds of trouble, besides `basic`, and those of them in which every worker keeps running.
KINDS: Final = ("basic", "refusals", "stalls", "signals", "lies")
HARMLESS_TO_WORKERS: Final = frozenset({"refusals", "stalls", "lies"})
#: Signals that a worker may get, one after the other; after each of them it hands over.
_SIGNALS: Final = {
    "SIGQUIT": (signal.SIGQUIT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
}


def kinds_of(names: str) -> list[str]:
    """Return the kinds of trouble that an option names; ``all`` is every kind."""
    kinds = list(KINDS) if names == "all" else names.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise SystemExit(f"unknown trouble {sorted(unknown)}: one of {', '.join(KINDS)}, or all")
    return kinds


class Agent:
    """Injects faults, and replaces the processes that it ends."""

    def __init__(
        self, world: World, rng: Random, *, every_s: float, lose: int, kinds: str = "basic"
    ) -> None:
        self._world = world
        self._lose = lose
        self._rng = rng
        self._every_s = every_s
        self._queues = queue_keys(world.queue, "penstock")
        self.done: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._stopped = False
        self._kinds = kinds_of(kinds)

    @property
    def workers_lived(self) -> bool:
        """Whether no worker was ended or paused, so that none of its streams may be taken."""
        return HARMLESS_TO_WORKERS.issuperset(self._kinds)

    def stop(self) -> None:
        """Finish the current fault and inject no more."""
        self._stopped = True

    async def run(self) -> None:
        """Inject faults until stopped."""
        basic: list[Any] = [self.kill] * 4 + [self.terminate] * 3 + [self.freeze] * 3
        basic += [self.restart_redis] * 3 + [self.pause_redis, self.cut_connections]
        basic += [self.lose] * 3 + [self.double] * 2 + [self.forget_scripts]
        by_kind: dict[str, list[Any]] = {
            "basic": basic,
            "refusals": [self.refuse] * 4 + [self.unblock],
            "stalls": [self.stall, self.pause_redis_beyond_the_lease],
            "signals": [self.signal],
            "lies": [self.lie],
        }
        acts = [act for kind in self._kinds for act in by_kind[kind]]
        while not self._stopped:
            await asyncio.sleep(self._rng.uniform(0.3, 1.7) * self._every_s)
            self._world.admit_ready()
            act = self._rng.choice(acts)
            await act()

    async def kill(self) -> None:
        """A worker crashes."""
        if len(self._world.workers) > 1:
            victim = self._rng.choice(self._world.workers)
            victim.kill()
            self._replace(victim, "worker killed")

    async def terminate(self) -> None:
        """A worker is asked to shut down, as in a deployment."""
        if len(self._world.workers) < 2:
            return
        victim = self._rng.choice(self._world.workers)
        self.complaints += complaints(victim.log.read_text(errors="replace"))
        self._world.workers.remove(victim)
        self._world.launch()
        code = await asyncio.to_thread(victim.stop, timeout=15)
        self.done["worker terminated" if code == 0 else f"worker terminated, exit {code}"] += 1

    def _replace(self, victim: Any, name: str) -> None:
        self.complaints += complaints(victim.log.read_text(errors="replace"))
        self._world.remove(victim)
        self._world.launch()
        self.done[name] += 1

    async def freeze(self) -> None:
        """A worker is paused for longer than its leases last, then continues as a zombie."""
        if len(self._world.workers) < 2:
            return
        victim = self._rng.choice(self._world.workers)
        pause(victim)
        await asyncio.sleep(LEASE_S + self._rng.uniform(0.5, 2.5))
        resume(victim)
        self.done["worker frozen"] += 1

    async def restart_redis(self) -> None:
        """Redis crashes and restarts with what it has on disk."""
        lose = self._rng.randrange(self._lose + 1)
        await asyncio.to_thread(self._world.restart_redis, lose=lose)
        self.done["Redis killed"] += 1
        self.done["bytes that Redis lost"] += lose

    async def refuse(self) -> None:
        """Redis refuses writes for a while, perhaps longer than the leases last."""
        seconds = self._rng.uniform(0.5, 3 * LEASE_S)
        await self._named("Redis refused", redis_troubles.refuse, self._rng, seconds)
        await asyncio.sleep(2 * seconds)  # nothing ends under a Redis that refuses most of the time

    async def stall(self) -> None:
        """Redis answers nothing, or no write, for longer than the leases last."""
        seconds = LEASE_S + self._rng.uniform(0.2, 2.5)
        await self._named("Redis stalled", redis_troubles.stall, self._rng, seconds)
        await asyncio.sleep(2 * seconds)

    async def pause_redis_beyond_the_lease(self) -> None:
        """Redis is stopped for longer than the leases last."""
        pause(self._world.redis)
        await asyncio.sleep(LEASE_S + self._rng.uniform(0.2, 2.5))
        resume(self._world.redis)
        self.done["Redis paused beyond the lease"] += 1

    async def unblock(self) -> None:
        """An operator ends the blocking commands of all clients with an error."""
        self.done["blocking commands ended"] += await self._on_redis(redis_troubles.unblock)

    async def lie(self) -> None:
        """Another program writes garbage into the indexes."""
        await self._named("garbage written:", redis_troubles.lie, Keys(), self._rng)

    async def signal(self) -> None:
        """A worker gets a signal that is not an ordinary shutdown."""
        if len(self._world.workers) < 2:
            return
        victim = self._rng.choice(self._world.workers)
        self._world.workers.remove(victim)
        self._world.launch()
        name = self._rng.choice(sorted(_SIGNALS))
        for number in _SIGNALS[name]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim.pid, number)
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))
        await asyncio.to_thread(victim.stop, timeout=15)
        self.done[f"worker got {name}"] += 1

    async def pause_redis(self) -> None:
        """Redis does not answer for a while."""
        pause(self._world.redis)
        await asyncio.sleep(self._rng.uniform(0.5, 4))
        resume(self._world.redis)
        self.done["Redis paused"] += 1

    async def lose(self) -> None:
        """Wake-ups are lost from the queue."""

        def act(connection: Any) -> int:
            return sum(bool(connection.rpop(queue)) for queue in self._queues)

        self.done["wake-ups lost"] += await self._on_redis(act)

    async def double(self) -> None:
        """Wake-ups are delivered twice."""

        def act(connection: Any) -> int:
            messages = [
                (queue, m) for queue in self._queues for m in connection.lrange(queue, 0, 5)
            ]
            for queue, message in messages:
                connection.lpush(queue, message)
            return len(messages)

        self.done["wake-ups doubled"] += await self._on_redis(act)

    async def cut_connections(self) -> None:
        """A firewall drops every connection."""
        kind = self._rng.choice(("pubsub", "normal"))
        self.done["connections cut"] += await self._on_redis(
            lambda connection: connection.client_kill_filter(_type=kind, skipme=True)
        )

    async def forget_scripts(self) -> None:
        """The script cache is emptied."""
        await self._on_redis(lambda connection: connection.script_flush())
        self.done["scripts flushed"] += 1

    async def _named(self, what: str, act: Any, *args: Any) -> None:
        """Do something to Redis that returns its own name."""

        def run(connection: Any) -> int:
            self.done[f"{what} {act(connection, *args)}"] += 1
            return 0

        await self._on_redis(run)

    async def _on_redis(self, act: Any) -> int:
        def run() -> int:
            try:
                with redis.Redis.from_url(self._world.redis.url) as connection:
                    return int(act(connection))
            except redis.RedisError:
                return 0

        return await asyncio.to_thread(run)
