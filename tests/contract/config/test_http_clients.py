"""Both HTTP clients of the workers, with real proxies and certificates on loopback."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import anthropic
import pytest

from config.http_clients import check_http, settings_fault
from config.settings import WorkerSettings
from penstock.errors import ConfigurationError
from tasks.api.client import async_client, problem_of, sync_client
from tests.contract.config.proxy import api, proxy

Call = Callable[[str], None]


def call_with_batch_client(address: str) -> None:
    """List the batches as a worker for batches does."""
    with sync_client(settings(address)) as client:
        client.messages.batches.list()


def call_with_stream_client(address: str) -> None:
    """List the batches with the client of a worker for streams."""

    async def call() -> None:
        async with async_client(settings(address)) as client:
            await client.messages.batches.list()

    asyncio.run(call())


both_clients = pytest.mark.parametrize("call", [call_with_batch_client, call_with_stream_client])


def settings(address: str) -> WorkerSettings:
    return WorkerSettings.load(anthropic_api_key="k", anthropic_base_url=address)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the command openssl")
    file = tmp_path_factory.mktemp("tls") / "self-signed.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=penstock test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(
        [*command, "-keyout", str(file), "-out", f"{file}.crt"], check=True, capture_output=True
    )
    with file.open("ab") as key:
        key.write(Path(f"{file}.crt").read_bytes())
    return file


@both_clients
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_call_goes_through_the_proxy(
    call: Call, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api() as address, proxy() as server:
        monkeypatch.setenv(variable, server.address)
        call(address)
        assert [line.split()[1] for line in server.requests] == [f"{address}/v1/messages/batches"]


@both_clients
@pytest.mark.parametrize("no_proxy", ["*", "127.0.0.1", "127.0.0.0/8", "fd00::/8,[::1],127.0.0.1"])
def test_no_proxy_excludes_the_api(
    call: Call, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api() as address, proxy() as server:
        monkeypatch.setenv("ALL_PROXY", f"http://{server.address}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        call(address)
        assert server.requests == []


@both_clients
def test_an_ipv6_network_in_no_proxy_keeps_the_proxy_for_other_addresses(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api() as address, proxy() as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://{server.address}")
        monkeypatch.setenv("NO_PROXY", "localhost,fd00::/8,::1,10.0.0.0/8")
        call(address)
        assert len(server.requests) == 1


@both_clients
@pytest.mark.parametrize("through_proxy", [True, False])
def test_a_certificate_of_ssl_cert_file_is_trusted(
    call: Call, through_proxy: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with api(certificate) as address, proxy() as server:
        if through_proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{server.address}")
        call(address)
        tunnels = [f"CONNECT {address.partition('//')[2]} HTTP/1.1"]
        assert server.requests == (tunnels if through_proxy else [])


@both_clients
def test_an_unknown_certificate_is_a_fault_of_the_settings(call: Call, certificate: Path) -> None:
    with api(certificate) as address, pytest.raises(anthropic.APIConnectionError) as raised:
        call(address)
    assert settings_fault(raised.value)
    problem = problem_of(raised.value)
    assert address in problem.message
    assert not problem.sent


@both_clients
def test_a_proxy_that_asks_for_a_password_is_a_fault_of_the_settings(
    call: Call, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with api(certificate) as address, proxy(status=407) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@{server.address}")
        with pytest.raises(anthropic.APIConnectionError) as raised:
            call(address)
    assert settings_fault(raised.value)
    assert "proxy-authorization: basic" in server.heads[0]
    assert "secret" not in problem_of(raised.value).message


@both_clients
def test_a_closed_port_is_not_a_fault_of_the_settings(call: Call) -> None:
    with pytest.raises(anthropic.APIConnectionError) as raised:
        call("http://127.0.0.1:1")
    assert not settings_fault(raised.value)
    assert "http://127.0.0.1:1" in problem_of(raised.value).message


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SSL_CERT_FILE", "/no/such.pem", "/no/such.pem cannot be read (No such file"),
        ("SSL_CERT_FILE", __file__, "is not a file of certificates"),
        ("SSL_CERT_FILE", os.path.dirname(__file__), "cannot be read (Is a directory)"),
        ("SSL_CERT_DIR", "/no/such", "cannot be read (No such file"),
        ("ALL_PROXY", "socks5://127.0.0.1:1", "pip install socksio"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:1", "ftp:// is not a kind of proxy"),
    ],
)
def test_settings_with_which_no_call_can_work_are_named_in_one_line(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    found = settings("https://api.example.com")
    for use in (check_http, sync_client, async_client):
        with pytest.raises(ConfigurationError) as raised:
            use(found)
        assert str(raised.value).startswith(f"{variable}: ")
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
