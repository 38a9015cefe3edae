"""Logs: lines for people and machines, without secrets."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.logs import JsonFormatter, TextFormatter, configure_logs
from config.settings import WorkerSettings

SECRET = "xyzzy-the-secret"


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Restore the root logger and the verbose ones."""
    names = ("", "anthropic", "httpx2", "httpcore2", "aiohttp")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def record(message: str, *args: Any, **extra: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "tasks.streams.relay", "levelname": "INFO", **extra})
    made.msg, made.args = message, args
    return made


def parsed(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    fields: dict[str, Any] = json.loads(line)
    return fields


def test_a_json_line_has_time_level_logger_message_and_extra_fields() -> None:
    fields = parsed(record("request %s ended", "x", request="x", tokens=5, created=0.0))
    assert fields == {
        "time": "1970-01-01T00:00:00+00:00",
        "level": "INFO",
        "logger": "tasks.streams.relay",
        "message": "request x ended",
        "request": "x",
        "tokens": 5,
    }


def test_extra_fields_cannot_replace_the_fields_of_the_line() -> None:
    fields = parsed(record("real", level="FAKE", logger="fake", time="never"))
    assert (fields["message"], fields["level"], fields["logger"]) == (
        "real",
        "INFO",
        "tasks.streams.relay",
    )


def test_an_exception_is_part_of_its_line() -> None:
    error = ValueError("broken\nin two")
    made = record("failed", exc_info=(type(error), error, None))
    assert "ValueError: broken\nin two" in parsed(made)["exception"]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, ValueError("x"), None, "\x00"])
def test_any_object_can_be_an_extra_field_of_a_line(value: Any) -> None:
    assert "extra_field" in parsed(record("x", extra_field=value))


@pytest.mark.parametrize("value", [{1: 2}, 2**70, "\ud800", {"a": "\udcff"}], ids=ascii)
def test_values_that_json_cannot_express_can_be_extra_fields(value: Any) -> None:
    assert "extra_field" in parsed(record("x", extra_field=value))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_message_is_one_line_of_json(message: str) -> None:
    assert parsed(record("%s", message))["message"] == message


def test_a_message_with_a_lone_surrogate_is_not_lost() -> None:
    assert parsed(record("no file %s", "a\udcff"))["level"] == "INFO"


def test_a_text_line_has_time_level_logger_and_message() -> None:
    line = TextFormatter().format(record("hello %s", "you"))
    assert line.endswith("INFO    tasks.streams.relay: hello you")


def test_a_text_line_shows_the_extra_fields() -> None:
    assert TextFormatter().format(record("hello", tokens=5)).endswith("hello tokens=5")


@pytest.mark.usefixtures("untouched_logging")
@pytest.mark.parametrize("kind", ["text", "json"])
def test_logs_go_to_standard_error_in_the_configured_format(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(WorkerSettings.load(log_format=kind, log_level="WARNING"))
    logging.getLogger("tasks.x").info("not this")
    logging.getLogger("tasks.x").warning("but this")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    if kind == "json":
        assert json.loads(captured.err)["message"] == "but this"
    else:
        assert "WARNING tasks.x: but this" in captured.err


@pytest.mark.usefixtures("untouched_logging")
def test_logs_go_to_the_log_file_of_a_detached_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(WorkerSettings.load(), str(tmp_path / "worker.log"))
    logging.getLogger("x").warning("written")
    [handler] = logging.getLogger().handlers
    handler.close()
    assert "WARNING x: written" in (tmp_path / "worker.log").read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("untouched_logging")
def test_configuring_twice_does_not_write_every_line_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        configure_logs(WorkerSettings.load())
    logging.getLogger("x").info("once")
    assert capsys.readouterr().err.count("once") == 1


@pytest.mark.usefixtures("untouched_logging")
def test_at_debug_the_sdk_and_its_transport_still_log_no_prompt_no_answer_and_no_key() -> None:
    for name in ("anthropic", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)  # as ANTHROPIC_LOG=debug does
    configure_logs(WorkerSettings.load(log_level="DEBUG"))
    heard = io.StringIO()
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(heard)
    answer = {"type": "error", "error": {"type": "x", "message": f"{SECRET}-answered"}}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(400, json=answer))
    with (
        anthropic.Anthropic(
            api_key=f"{SECRET}-key", http_client=httpx2.Client(transport=transport)
        ) as api,
        pytest.raises(anthropic.BadRequestError),
    ):
        api.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": SECRET}])
    logging.getLogger("tasks").debug("heard")
    assert "heard" in heard.getvalue()
    assert SECRET not in heard.getvalue()
