"""Runs the services of docker-compose.yml as processes of this machine.

Their commands and health checks run in a copy of the image's files, made by the COPY lines of the
Dockerfile, with the environment that both files define.
"""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock.client import Client
from penstock.local.processes import LocalProcess, free_port
from penstock.local.server_choice import find_server
from penstock.local.stack import responds
from penstock.settings import ClientSettings
from penstock.store.connection import connect
from tests.container_files import (
    OURS,
    ROOT,
    SERVICES,
    copied,
    environment_of,
    ignored,
    in_dockerfile,
    services,
)


@dataclass(frozen=True)
class Stack:
    """The services of docker-compose.yml as processes of this machine."""

    app: Path  #: the copy of the image's /app
    ports: Mapping[str, str]  #: address in the containers' network → address here

    def here(self, text: str) -> str:
        """Replace the addresses of containers in ``text`` by those on this machine."""
        names = "|".join(re.escape(name) for name in self.ports)
        return re.sub(names, lambda match: self.ports[match[0]], text)

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a service, with the Python of this machine."""
        image = {
            name: value
            for line in in_dockerfile("ENV")
            for name, value in (word.split("=", 1) for word in line.words)
        }
        if service in OURS:
            image["PYTHONPATH"] = str(self.app)
        given = {name: self.here(value) for name, value in environment_of(service).items()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Docker sets HOSTNAME. The image does not run as root; the tests may.
        local = {"PATH": path, "HOSTNAME": socket.gethostname(), "C_FORCE_ROOT": "1"}
        return {**image, **given, **local}

    def process(self, service: str, *options: str) -> LocalProcess:
        """Return the process of a service, not yet started."""
        first, *rest = [self.here(word) for word in services()[service]["command"]]
        rest = [word.replace("redis-server", str(find_server().binary)) for word in rest]
        command = [first, *rest, *options]
        return LocalProcess(service, command, env=self.environment(service))

    def health_check(self, service: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the health check of a service, with ``options`` after the program's name."""
        kind, *words = [self.here(word) for word in services()[service]["healthcheck"]["test"]]
        return subprocess.run(
            ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else [words[0], *options, *words[1:]],
            env=self.environment(service),
            cwd=self.app,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def redis_port(self) -> str:
        """The port of the stack's Redis."""
        return self.ports["redis:6379"].rpartition(":")[2]

    @property
    def producer(self) -> ClientSettings:
        """The settings of a producer on this machine."""
        return ClientSettings.load(
            redis_url=self.here(environment_of("worker-streams")["PENSTOCK_REDIS_URL"])
        )


def lay_out_image(folder: Path) -> Path:
    """Apply the COPY lines of the Dockerfile; return the copy of the image's /app."""
    for source, target in copied():
        origin = ROOT / source
        if origin.is_dir():

            def excluded(parent: str, names: list[str]) -> list[str]:
                inside = Path(parent).relative_to(ROOT)
                return [name for name in names if ignored(str(inside / name))]

            shutil.copytree(origin, folder / target.lstrip("/"), ignore=excluded)
    return folder / "app"


def start_all(stack: Stack, processes: dict[str, LocalProcess]) -> None:
    """Start the services in the order of their dependencies and wait until they run."""

    def start(name: str, *options: str) -> LocalProcess:
        processes[name] = stack.process(name, *options)
        return processes[name].start()

    def logged(process: LocalProcess, text: str) -> Callable[[], bool]:
        return lambda: text in process.log.read_text(errors="replace")

    server = start("redis", "--bind", "127.0.0.1", "--port", stack.redis_port)
    server.wait_until(logged(server, "Ready to accept connections"))
    simulator = start("simulator")
    simulator.wait_until(logged(simulator, "http://"))
    for name in ("worker-streams", "worker-batches", "flower"):
        start(name)
    for name in ("worker-streams", "worker-batches"):
        processes[name].wait_until(logged(processes[name], " ready."), timeout=60)
    url = f"http://127.0.0.1:{stack.ports['5555']}/healthcheck"
    processes["flower"].wait_until(lambda: responds(url), timeout=60)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services of docker-compose.yml, stopped afterwards as by `compose down`."""
    folder = tmp_path_factory.mktemp("image")
    flower, simulator = str(free_port()), str(free_port())
    ports = {
        "redis:6379": f"127.0.0.1:{free_port()}",
        "simulator:8000": f"127.0.0.1:{simulator}",
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - replaced
        "5555": flower,
        "8000": simulator,
    }
    running = Stack(lay_out_image(folder), ports)
    processes: dict[str, LocalProcess] = {}
    try:
        start_all(running, processes)
        yield running
    finally:
        codes = {name: processes[name].stop(timeout=20) for name in reversed(processes)}
    assert codes == dict.fromkeys(SERVICES, 0), "SIGTERM stops every service with exit code 0"


def test_the_services_run_from_the_image_alone(stack: Stack) -> None:
    """All packages are imported from the image and none from the checkout."""
    packages = "penstock, config, workers, tasks.streams.task"
    code = f"import workers.app, {packages}; print(*(each.__file__ for each in ({packages})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **stack.environment("worker-streams")},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(path).is_relative_to(stack.app) for path in done.stdout.split())


@pytest.mark.parametrize("name", OURS)
def test_a_running_service_passes_its_health_check(stack: Stack, name: str) -> None:
    """The command is the one in docker-compose.yml."""
    done = stack.health_check(name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("queue", ["streams", "batches"])
def test_a_worker_that_does_not_run_fails_its_health_check(stack: Stack, queue: str) -> None:
    """The reply of another worker does not count."""
    other = Stack(stack.app, {**stack.ports, f"{queue}@": "absent@", "--timeout 10": "--timeout 1"})
    assert other.health_check(f"worker-{queue}").returncode != 0


def test_redis_is_configured_to_keep_its_data(stack: Stack) -> None:
    """It writes to disk, refuses writes when it is full, and requires a password."""
    connection: Any = connect(stack.producer)
    found = connection.config_get("appendonly", "maxmemory-policy", "maxmemory", "save")
    assert found == {
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(2**30),
        "save": "",
    }
    connection.close()
    wrong = connect(ClientSettings.load(redis_url=f"redis://:no@{stack.ports['redis:6379']}/0"))
    with pytest.raises(redis.AuthenticationError):
        wrong.ping()
    wrong.close()


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not installed")
def test_redis_passes_its_health_check(stack: Stack) -> None:
    """A wrong password or a server that does not run fails the check."""
    assert stack.health_check("redis", "-p", stack.redis_port).stdout == "PONG\n"
    assert stack.health_check("redis", "-p", stack.redis_port, "-a", "wrong").returncode != 0
    assert stack.health_check("redis", "-p", str(free_port())).returncode != 0


def test_flower_requires_its_password(stack: Stack) -> None:
    """Anyone with access can run tasks."""
    url = f"http://127.0.0.1:{stack.ports['5555']}/api/workers"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=5)
    assert refused.value.code == 401
    refused.value.close()
    login = base64.b64encode(b"penstock:for0flower").decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
        assert response.status == 200


def test_a_stream_runs_through_the_services(stack: Stack) -> None:
    """From a producer on this machine, over the published Redis, to the simulator."""
    with (
        Client(stack.producer.redis_url.get_secret_value()) as client,
        client.messages.stream(
            model="claude-haiku-4-5",
            max_tokens=200,
            messages=[{"role": "user", "content": "Hello"}],
        ) as stream,
    ):
        text = "".join(stream.text_stream)
    assert text
