"""The processes of a measurement: a private Redis, the simulator and workers."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from penstock import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import LocalProcess
from penstock.local.stack import SIMULATOR_KEY, SimulatorProcess, WorkerProcess, python_path
from penstock.simulator.control import Control

MODEL: Final = "claude-sonnet-5-5"


@dataclass(frozen=True, slots=True)
class Rig:
    """What all measurements share; starts further processes and stops them at the end."""

    redis: EmbeddedRedis
    simulator: SimulatorProcess
    control: Control
    client: Client
    env: dict[str, str]
    _stack: ExitStack

    def worker(self, name: str = "streams", *, warm: str = MODEL, **settings: str) -> WorkerProcess:
        """Start and warm up a stream worker, which is stopped with the rig.

        ``warm`` is the model to warm up with: the rate limiter learns each model's limits.
        """
        worker = WorkerProcess("streams", env={**self.env, **settings}, name=name)
        self._stack.enter_context(worker)
        self.warm_up(warm)
        return worker

    def process(self, module: str, *options: object) -> LocalProcess:
        """Start ``python -m benchmarks.<module>``, which is stopped with the rig."""
        command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, options)]
        process = LocalProcess(module, command, env={**self.env, **python_path()})
        return self._stack.enter_context(process)

    def warm_up(self, model: str, streams: int = 4) -> None:
        """Answer a few streams: the first ones pay for imports and connections."""
        body = asking(model, deltas=3, rate=0)
        for handle in [self.client.messages.enqueue(**body) for _ in range(streams)]:
            for _ in handle.events(timeout=30):
                pass


@contextmanager
def rig(*options: str) -> Iterator[Rig]:
    """Start Redis and a simulator with these ``options`` for the length of the block."""
    # The developer's own settings must not affect the measurement.
    for name in [name for name in os.environ if name.startswith(("PENSTOCK_", "ANTHROPIC_"))]:
        if name != "PENSTOCK_REDIS_SERVER":
            del os.environ[name]
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis())
        simulator = stack.enter_context(SimulatorProcess(*options))
        client = stack.enter_context(Client(redis.url))
        env = {
            "PENSTOCK_REDIS_URL": redis.url,
            "ANTHROPIC_BASE_URL": simulator.url,
            "ANTHROPIC_API_KEY": SIMULATOR_KEY,
            "C_FORCE_ROOT": "1",
        }
        yield Rig(redis, simulator, Control(simulator.url), client, env, stack)


def asking(model: str = MODEL, **directives: float) -> dict[str, Any]:
    """A Messages body with these directives for the simulator; True is a bare flag."""
    items = (key if value is True else f"{key}={value}" for key, value in directives.items())
    deltas = directives.get("deltas", 100)
    assert isinstance(deltas, int)
    return {
        "model": model,
        # A stamp may be longer than the 16 characters that the simulator calls a token.
        "max_tokens": max(1000, 2 * deltas),
        "messages": [{"role": "user", "content": f"Describe it. [[sim {' '.join(items)}]]"}],
    }


def outcome(process: LocalProcess, *, timeout: float) -> dict[str, Any]:
    """Wait until a process has ended; returns the JSON object that it printed last."""
    deadline = time.monotonic() + timeout
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.1)
    for line in reversed(_lines(process)):
        if line.startswith("{"):
            found: dict[str, Any] = orjson.loads(line)
            return found
    raise RuntimeError(f"{process.name} printed no figures{process.tail()}")


def said(process: LocalProcess, line: str) -> Callable[[], bool]:
    """A condition for `LocalProcess.wait_until`: the process has printed this line."""
    return lambda: line in _lines(process)


def _lines(process: LocalProcess) -> list[str]:
    return process.log.read_text(errors="replace").splitlines()
