"""A complete deployment on this machine, for ``demo`` and ``up``."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self
from urllib.parse import urlsplit

from penstock.cli.command_error import CommandError
from penstock.cli.commands.programs import require_module
from penstock.errors import LocalProcessError
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.flower_access import FLOWER_USER
from penstock.local.processes import LocalProcess
from penstock.local.stack import (
    BROKER_VARIABLES,
    SIMULATOR_KEY,
    FlowerProcess,
    SimulatorProcess,
    WorkerProcess,
)
from penstock.queue.names import BATCHES_QUEUE, STREAMS_QUEUE

#: Seconds until a process is killed that has not exited after SIGTERM. A worker would hand its
#: streams over first, but the Redis that they are written to is about to stop as well.
STOP_TIMEOUT_S = 3.0
#: The signals that stop a deployment; Python turns the first into KeyboardInterrupt by itself.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Variables that would connect a process to another Redis.
_OTHER_REDIS = ("PENSTOCK_REDIS_URL", *BROKER_VARIABLES)
#: Seconds between two checks that all processes are alive.
CHECK_INTERVAL_S = 0.3


class LocalDeployment:
    """Redis, the simulator, both workers and Flower, as child processes.

    A context manager: leaving it stops every process and removes its files. ``announce`` receives
    one line per process, with its name, pid and address. Without ``redis_url`` a private Redis is
    started; without ``simulate`` the workers call the real API.

    Removes the variables of `forget_other_redis` from the environment.
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
        forget_other_redis()
        self._announce = announce
        self._redis_port = redis_port
        self._simulate = simulate
        self._simulator_options = simulator_options
        self._env = dict(env or {})
        self._flower_port = flower_port
        self._processes: list[LocalProcess] = []
        # Ctrl-C interrupts only the main thread. Processes are started in other threads, so that
        # an interrupt cannot leave a process running that `stop` does not know.
        self._starters = ThreadPoolExecutor(max_workers=3, thread_name_prefix="start")
        self._starts: list[Future[LocalProcess]] = []
        self.redis_url = redis_url or ""  #: value for PENSTOCK_REDIS_URL
        self.flower: FlowerProcess  #: set when it has been started

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
        """Stop every process: those that use a server before the server itself."""
        with _signals_ignored():
            self._stop()

    def _stop(self) -> None:
        clients = [p for p in self._processes if isinstance(p, WorkerProcess | FlowerProcess)]
        servers = [p for p in self._processes if p not in clients]
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="stop") as stoppers:
            list(stoppers.map(_stop, clients))
            # A process that is still being started is stopped as soon as it exists.
            while wait(self._starts, timeout=CHECK_INTERVAL_S).not_done:
                list(stoppers.map(_stop, clients))
            list(stoppers.map(_stop, clients))
        # A start that was submitted but not recorded, because of an interrupt, completes first.
        self._starters.shutdown()
        for client in clients:
            _stop(client)
        for server in reversed(servers):
            _stop(server)

    def raise_if_exited(self) -> None:
        """Raise `CommandError`, with the end of its log, if a process has exited."""
        for process in self._processes:
            if not process.alive:
                raise CommandError(
                    f"{process.name} exited unexpectedly; stopped everything else{process.tail()}"
                )

    def run_forever(self) -> None:
        """Block until a process exits. Raises `CommandError` then; never returns."""
        forever = threading.Event()
        while not forever.wait(CHECK_INTERVAL_S):
            self.raise_if_exited()

    def _start(self) -> None:
        require_module("anthropic", "the anthropic SDK", "demo")
        require_module("flower", "Flower", "demo")
        if self._simulate:
            require_module("uvicorn", "the simulator's web server (uvicorn)", "demo")
        env = {**self._env, "PENSTOCK_REDIS_URL": self._start_redis()}
        if self._simulate:
            env |= self._start_simulator()
        streams, batches = (
            WorkerProcess(queue, env=env, simulated=self._simulate)
            for queue in (STREAMS_QUEUE, BATCHES_QUEUE)
        )
        self.flower = flower = FlowerProcess(env=env, port=self._flower_port)
        # Started in parallel: each of them imports Celery, which takes a second or two.
        processes: tuple[LocalProcess, ...] = (streams, batches, flower)
        starts = [self._submit_start(process) for process in processes]
        for process, start in zip(processes, starts, strict=True):
            start.result()
            self._report(process, f"log {process.log}" if process is not flower else login(flower))

    def _start_redis(self) -> str:
        if not self.redis_url:
            server = EmbeddedRedis(port=self._redis_port)
            self._submit_start(server).result()
            self.redis_url = server.url
            self._report(server, f"{_without_password(server.url)} (private, {server.server})")
            for reason in server.server.skipped:
                self._announce(f"{'':<24}skipped {reason}")
        return self.redis_url

    def _start_simulator(self) -> dict[str, str]:
        simulator = SimulatorProcess("--mark", "1", *self._simulator_options)
        self._submit_start(simulator).result()
        self._report(simulator, f"{simulator.url} (simulates the API)")
        return {
            "ANTHROPIC_BASE_URL": simulator.url,
            "ANTHROPIC_API_KEY": SIMULATOR_KEY,
            # A configured proxy could not reach our loopback address.
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
        }

    def _submit_start(self, process: LocalProcess) -> "Future[LocalProcess]":
        self._processes.append(process)
        start = self._starters.submit(process.start)
        self._starts.append(start)
        return start

    def _report(self, process: LocalProcess, address: str) -> None:
        self._announce(f"{process.name:<10} pid {process.pid:<8} {address}")


def _without_password(url: str) -> str:
    return url.partition("//")[0] + "//" + url.rpartition("@")[2]


def connection_help(redis_url: str) -> list[str]:
    """Return the commands with which another terminal, and redis-cli, use a private Redis."""
    parts = urlsplit(redis_url)
    return [
        f"export PENSTOCK_REDIS_URL={redis_url}",
        f"export REDISCLI_AUTH={parts.password}  # for redis-cli -p {parts.port}",
    ]


def login(flower: FlowerProcess) -> str:
    """Return the address of Flower, with its generated user and password if it has them."""
    if not flower.has_login:
        return flower.url
    return f"{flower.url} (user {FLOWER_USER}, password {flower.password})"


def forget_other_redis() -> None:
    """Remove the variables that would connect this process or its children to another Redis."""
    for name in _OTHER_REDIS:
        for variable in variables(name):
            del os.environ[variable]


def variables(name: str) -> list[str]:
    """Return the environment variables called ``name`` that have a value.

    The case of a setting's name does not matter, so there can be several.
    """
    return [each for each, value in os.environ.items() if each.upper() == name and value]


def _stop(process: LocalProcess) -> None:
    with suppress(LocalProcessError):  # it was never started
        process.stop(timeout=STOP_TIMEOUT_S)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignore further signals: a second Ctrl-C would interrupt the orderly shutdown."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `SystemExit`, so that context managers clean up."""

    def exit_process(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, exit_process) for number in STOP_SIGNALS[1:]}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
