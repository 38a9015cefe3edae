"""Secrets are planted wherever one can be configured, and faults caused: nothing shows one."""

import json
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from penstock import Client, RequestFailed
from penstock.access.redaction import forms_of
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import FlowerProcess, WorkerProcess, python_path
from penstock.testing import wait_until
from tests.contract.batch_api import params
from tests.contract.config.raw_server import RawServer, raw_server, response
from tests.tls_server import Authority, tls_server

KEY = "sk-ant-planted-api-key"
REDIS = "planted@redis/pw#1%"
PROXY = "planted:proxy@pw"
GATEWAY = "planted/gateway?pw"
HEADER = "planted-custom-header"
SPOOL = "planted-spool-secret"
FLOWER = "planted-flower-pw"
COOKIE = "cookie-of-the-gateway"
SECRETS = (KEY, REDIS, PROXY, GATEWAY, HEADER, SPOOL, FLOWER, COOKIE)

#: What the gateway answers: the faults of calls.
ANSWERS: Mapping[str, bytes] = {
    "a 401 that echoes": response(
        401, f"set-cookie: {COOKIE}", body=json.dumps({"error": {"type": KEY, "message": KEY}})
    ),
    "a page that echoes": response(403, body=f"<b>{KEY} {HEADER} Basic {PROXY}</b>"),
    "a redirect to another host": response(307, f"location: https://me:{KEY}@h/{KEY}?{HEADER}"),
    "a proxy that asks for a password": response(407, f"proxy-authenticate: {KEY}"),
    "a malformed header": f"HTTP/1.1 200 OK\r\nset-cookie {COOKIE}{KEY}\r\n\r\n".encode(),
    "a malformed status": f"{KEY} {COOKIE}\r\n\r\n".encode(),
    "no answer": b"",
}


def echo(answer: bytes, _head: str) -> bytes:
    return answer


class Deployment:
    """A worker for both queues and Flower, with TLS to Redis and a proxy in front of the API."""

    def __init__(self, redis: EmbeddedRedis, proxy: RawServer, authority: Authority, port: int):
        self.redis, self.proxy = redis, proxy
        login = quote(REDIS, safe="")
        self.url = f"rediss://:{login}@127.0.0.1:{port}/0?ssl_ca_certs={authority.file}"
        self.env = {
            "PENSTOCK_REDIS_URL": self.url,
            "PENSTOCK_LOG_LEVEL": "DEBUG",
            "PENSTOCK_MAX_ATTEMPTS": "1",
            "ANTHROPIC_API_KEY": f"{KEY}\n",
            "ANTHROPIC_CUSTOM_HEADERS": f"x-gate: Bearer {HEADER}\n",
            "ANTHROPIC_BASE_URL": f"http://me:{quote(GATEWAY, safe='')}@api.invalid",
            "ANTHROPIC_LOG": "debug",
            "HTTP_PROXY": f"http://me:{quote(PROXY, safe='')}@{proxy.address[7:]}",
            "FSSPEC_S3": json.dumps({"key": "id", "secret": SPOOL}),
            "FLOWER_BASIC_AUTH": f"me:{FLOWER}",
            "C_FORCE_ROOT": "1",
        }
        self.worker = WorkerProcess(
            "streams", "-Q", "streams,batches", env=self.env, name="planted"
        )
        self.flower = FlowerProcess(env=self.env)

    def run(self, *command: str, **env: str) -> str:
        """Run a command with the same settings; returns all that it prints."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env={**self.env, **python_path(), "PATH": "/usr/bin:/bin", **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout + done.stderr

    def page(self, path: str) -> str:
        """Return a page of Flower."""
        request = urllib.request.Request(f"{self.flower.url}{path}")  # noqa: S310
        login = b64encode(f"me:{FLOWER}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture(scope="module")
def commands() -> list[str]:
    """Every command that Redis receives from now on, events and records included."""
    return []


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, commands: list[str]
) -> Iterator[Deployment]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with (
        EmbeddedRedis() as server,
        raw_server() as proxy,
    ):
        with redis.Redis.from_url(server.url) as connection:
            connection.config_set("requirepass", REDIS)
        with (
            tls_server(authority.certificate("redis"), server.port) as tls,
            socket.create_connection(("127.0.0.1", server.port)) as monitor,
        ):
            monitor.sendall(f"AUTH {REDIS}\r\nMONITOR\r\n".encode())
            threading.Thread(target=listen, args=(monitor, commands), daemon=True).start()
            deployment = Deployment(server, proxy, authority, tls.port)
            worker, flower = deployment.worker.launch(), deployment.flower
            try:
                flower.start()
                worker.wait_until_ready()
                yield deployment
            finally:
                flower.stop()
                worker.stop()


def listen(monitor: socket.socket, commands: list[str]) -> None:
    with suppress(OSError):  # the test is over
        while piece := monitor.recv(65_536):
            commands.append(piece.decode(errors="replace"))


def with_decoded_messages(text: str) -> str:
    """Add the bodies of Celery's messages, which kombu writes as base64."""
    encoded = re.findall(r"[A-Za-z0-9+/]{40,}={0,2}", text)
    whole = (each for each in encoded if len(each) % 4 == 0)
    return "\n".join([text, *(b64decode(each).decode(errors="replace") for each in whole)])


def cause_faults(deployment: Deployment, client: Client) -> str:
    """Cause each fault for a stream, and one for a job; returns what the client sees."""
    seen = []
    for what, answer in ANSWERS.items():
        deployment.proxy.answer = partial(echo, answer)
        request = client.messages.enqueue(**params())
        with pytest.raises(RequestFailed) as raised:
            request.stream(timeout=30).until_done()
        seen.append(f"{what}: {raised.value} {raised.value.error}")
    deployment.proxy.answer = partial(echo, ANSWERS["a 401 that echoes"])
    job = client.messages.batches.create(requests=[{"custom_id": "a", "params": params()}])
    wait_until(lambda: client.messages.batches.retrieve(job.id).paused)
    seen.append(str(client.messages.batches.retrieve(job.id)))
    return "\n".join(seen)


def search(texts: Mapping[str, str]) -> list[str]:
    return [
        f"{secret} in {where}: …{text[max(0, text.index(form) - 120) :][:200]}…"
        for where, text in texts.items()
        for secret in SECRETS
        for form in forms_of(secret)
        if form in text
    ]


def test_no_process_shows_a_secret(deployment: Deployment, commands: list[str]) -> None:
    with Client(deployment.url) as client:
        texts = {"the client": cause_faults(deployment, client)}
    texts |= {"the repr of the client's settings": repr(client.settings)}
    heads = "".join(deployment.proxy.heads)
    assert f"Bearer {HEADER}" in heads, "the custom header was sent"
    node = f"planted@{socket.gethostname()}"
    inspect = ("celery", "-A", "workers.app", "inspect")
    started = {
        "celery inspect conf": partial(deployment.run, *inspect, "conf"),
        "celery inspect stats": partial(deployment.run, *inspect, "stats"),
        "celery report": partial(deployment.run, "celery", "-A", "workers.app", "report"),
        "doctor": partial(deployment.run, "penstock.cli", "doctor"),
        "settings": partial(deployment.run, "config"),
        "a worker with a broken key": partial(
            deployment.run,
            *("celery", "-A", "workers.app", "worker"),
            ANTHROPIC_API_KEY=f"{KEY}\n{KEY}",
        ),
        "a worker with a wrong password": partial(
            deployment.run,
            *("celery", "-A", "workers.app", "worker"),
            PENSTOCK_REDIS_URL=deployment.url.replace("%231%25", "%232"),
        ),
        "a worker with an unescaped password": partial(
            deployment.run,
            *("celery", "-A", "workers.app", "worker"),
            PENSTOCK_REDIS_URL=f"redis://:{REDIS}@127.0.0.1:1/0",
        ),
        "Flower's workers": partial(deployment.page, "/api/workers?refresh=1"),
        "Flower's worker": partial(deployment.page, f"/worker/{node}"),
        "Flower's tasks": partial(deployment.page, "/api/tasks"),
        "Flower's broker": partial(deployment.page, "/broker"),
    }
    with ThreadPoolExecutor(4) as pool:
        texts |= dict(zip(started, pool.map(lambda run: run(), started.values()), strict=True))
    deployment.worker.kill()
    texts["the log of the worker"] = deployment.worker.log.read_text()
    texts["the log of Flower"] = deployment.flower.log.read_text()
    texts["Redis"] = with_decoded_messages("".join(commands))
    texts["command lines"] = command_lines()
    for where, text in texts.items():
        assert text, where
    assert (
        "penstock: ANTHROPIC_API_KEY: contains a line break" in texts["a worker with a broken key"]
    )
    assert "refused the user or password" in texts["a worker with a wrong password"]
    assert "streams" in texts["Flower's broker"]
    assert "task-failed" in texts["Redis"], "events were seen"
    assert search(texts) == []


def command_lines() -> str:
    """The command lines of all processes, which every user of the machine can read."""
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(each.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)
