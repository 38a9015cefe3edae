"""All parts of Penstock on this machine, for ``demo`` and ``up``: started side by side."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

from penstock.cli.command_error import CommandError
from penstock.cli.commands.programs import require_module
from penstock.errors import LocalProcessError
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.processes import LocalProcess
from penstock.local.stack import SIMULATOR_KEY, FlowerProcess, SimulatorProcess, WorkerProcess
from penstock.queue.names import BATCHES_QUEUE, STREAMS_QUEUE

#: How long a part may take to end: a worker would like to wait for its running streams, but what
#: they write to is about to end too.
STOP_TIMEOUT_S = 3.0
#: The signals that ask us to end; Python turns the first into KeyboardInterrupt by itself.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: How often `LocalDeployment` looks whether all parts are alive.
CHECK_INTERVAL_S = 0.3


class LocalDeployment:
    """Redis, the simulator, both workers and Flower. A context manager that leaves nothing.

    ``announce`` is given one line for each part: what it is and where. Without ``redis_url`` a
    private Redis is started; without ``simulate`` the workers call the real API.
    """

    def __init__(
        self,
        announce: Callable[[str], None],
        *,
        redis_url: str | None = None,
        redis_port: int | None = None,
        simulate: bool,
        simulator_options: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        flower_port: int | None = None,
    ) -> None:
        self._print = announce
        self._given_redis = redis_url
        self._redis_port = redis_port
        self._simulate = simulate
        self._simulator_options = simulator_options
        self._env = dict(env or {})
        self._flower_port = flower_port
        self._parts: list[LocalProcess] = []
        # Parts are started in threads, because Ctrl-C interrupts the main thread alone: it can
        # never fall between a part's start and the note of it that lets it be ended.
        self._starters = ThreadPoolExecutor(max_workers=3, thread_name_prefix="start")
        self._starts: list[Future[LocalProcess]] = []
        self.redis_url = redis_url or ""  #: for PENSTOCK_REDIS_URL
        self.flower: FlowerProcess  #: once they have been started

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every part, in the order that lets each announce goodbye to those it talks to."""
        with _signals_ignored():
            self._stop()

    def _stop(self) -> None:
        clients = [p for p in self._parts if isinstance(p, WorkerProcess | FlowerProcess)]
        servers = [p for p in self._parts if p not in clients]
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="end") as enders:
            list(enders.map(_stop, clients))
            # Whoever is being started at this moment ends as soon as it has a process.
            while wait(self._starts, timeout=CHECK_INTERVAL_S).not_done:
                list(enders.map(_stop, clients))
            list(enders.map(_stop, clients))
        # One whose start an interruption kept from being noted comes up first.
        self._starters.shutdown()
        for client in clients:
            _stop(client)
        for server in reversed(servers):
            _stop(server)

    def raise_if_exited(self) -> None:
        """Raise `CommandError` with the end of its log if a part has died."""
        for part in self._parts:
            if not part.alive:
                raise CommandError(f"{part.name} has ended, so the rest ends too{part.tail()}")

    def run_forever(self) -> None:
        """Return never, but raise what `check` raises when a part dies."""
        forever = threading.Event()
        while not forever.wait(CHECK_INTERVAL_S):
            self.raise_if_exited()

    def _start(self) -> None:
        require_module("anthropic", "the anthropic SDK", "demo")
        require_module("flower", "Flower", "demo")
        if self._simulate:
            require_module("uvicorn", "the simulator's server (uvicorn)", "demo")
        env = {**self._env, "PENSTOCK_REDIS_URL": self._start_redis()}
        if self._simulate:
            env |= self._start_simulator()
        streams = WorkerProcess(STREAMS_QUEUE, env=env)
        batches = WorkerProcess(BATCHES_QUEUE, env=env)
        self.flower = flower = FlowerProcess(env=env, port=self._flower_port)
        # Each of these imports Celery for a second or two: let them do it at the same time.
        starts = [self._submit_start(part) for part in (streams, batches, flower)]
        for part, start in zip((streams, batches, flower), starts, strict=True):
            start.result()
            self._announce(part, flower.url if part is flower else f"log {part.log}")

    def _start_redis(self) -> str:
        if self._given_redis is None:
            server = EmbeddedRedis(port=self._redis_port)
            self._submit_start(server).result()
            self.redis_url = server.url
            self._announce(server, f"{server.url} ({server.binary.name}, private)")
        return self.redis_url

    def _start_simulator(self) -> dict[str, str]:
        simulator = SimulatorProcess(*self._simulator_options)
        self._submit_start(simulator).result()
        self._announce(simulator, f"{simulator.url} (stands in for the API)")
        return {
            "ANTHROPIC_BASE_URL": simulator.url,
            "ANTHROPIC_API_KEY": SIMULATOR_KEY,
            # A proxy of this machine could not reach our loopback address.
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
        }

    def _submit_start(self, part: LocalProcess) -> "Future[LocalProcess]":
        self._parts.append(part)
        start = self._starters.submit(part.start)
        self._starts.append(start)
        return start

    def _announce(self, part: LocalProcess, where: str) -> None:
        self._print(f"{part.name:<10} pid {part.pid:<8} {where}")


def _stop(part: LocalProcess) -> None:
    with suppress(LocalProcessError):  # it was never started
        part.stop(timeout=STOP_TIMEOUT_S)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Hold off impatience: the end takes a second or two, and a second Ctrl-C would cut it off."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C, so that everything is ended in order."""

    def unwind(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in STOP_SIGNALS[1:]}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
