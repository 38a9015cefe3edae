"""The simulator as a command: what it prints, and how it exits."""

import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from penstock.simulator.__main__ import main
from penstock.simulator.control import Control
from penstock.simulator.process import simulator

COMMAND = [sys.executable, "-m", "penstock.simulator"]
REQUEST = (
    b'{"model":"claude-opus-5","max_tokens":50,"stream":true,'
    b'"messages":[{"role":"user","content":"[[sim stall_after=1]]"}]}'
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_process_cleanly_with_a_stream_open(number: signal.Signals) -> None:
    """Status 0, one line on stdout and none on stderr; the stream is cut."""
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        assert (address.scheme, address.hostname) == ("http", "127.0.0.1")
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(
                b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\n"
                b"anthropic-version: 2026-10-21\r\ncontent-length: %d\r\n\r\n"
                % len(REQUEST)
                + REQUEST
            )
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            process.send_signal(number)
            rest, errors = process.communicate(timeout=10)
            assert (process.returncode, rest, errors) == (0, "", "")


def test_every_option_is_a_flag_of_the_command() -> None:
    """With hyphens."""
    with simulator(rate=5, minute_seconds=2, requests_per_minute=7) as control:
        options = control.options()
    assert (options["rate"], options["minute_seconds"]) == (5, 2)
    assert options["requests_per_minute"] == 7


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rate", "-1"], "rate: must be zero or more, not -1.0"),
        (["--rate", "x"], "argument --rate"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
    ],
)
def test_an_invalid_flag_is_reported_without_a_traceback(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit status 2."""
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_a_port_in_use_is_reported_by_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    """With exit status 2, too."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            main(["--port", str(port)])
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_importing_penstock_does_not_import_the_simulator() -> None:
    """Nor uvicorn."""
    code = (
        "import sys, penstock;print([m for m in sys.modules if 'simulator' in m or 'uvicorn' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_control_needs_an_http_address() -> None:
    """It would open files otherwise."""
    with pytest.raises(ValueError, match="not an HTTP address"):
        Control("file:///etc/passwd")
