"""The root command: its help, what it imports, and how it reports errors."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping

import click
import pytest
from click.testing import CliRunner, Result

from penstock.cli import COMMANDS, cli
from penstock.cli.command_error import CommandError, as_command_error
from penstock.errors import InvalidRequest, NotFound

#: An address without a server: port 1 of loopback.
NO_REDIS = {"PENSTOCK_REDIS_URL": "redis://127.0.0.1:1/0"}
NAMES = [name for section in COMMANDS.values() for name in section]


def invoke(*args: str, input: str = "", env: Mapping[str, str] | None = None) -> Result:
    """Run a command in this process; an unexpected exception fails the test."""
    return CliRunner(env=env).invoke(cli, args, input=input, catch_exceptions=False)


def imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running ``code``."""
    listing = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    return set(ran.stdout.split())


def test_the_help_lists_every_command_with_its_short_help() -> None:
    shown = invoke("--help")
    assert shown.exit_code == 0
    for section, commands in COMMANDS.items():
        assert f"{section}:" in shown.stdout
        for name, (_, short_help) in commands.items():
            assert f"  {name.ljust(8)}  {short_help}" in shown.stdout


def test_without_arguments_the_help_is_shown() -> None:
    shown = invoke()
    assert "First steps" in shown.stderr
    assert shown.exit_code == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_short_help_of_a_command_is_the_one_in_the_list(name: str) -> None:
    listed = {name: text for section in COMMANDS.values() for name, (_, text) in section.items()}
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == listed[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_has_an_example(name: str) -> None:
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    assert f"penstock {name}" in shown.stdout


def test_the_help_imports_no_client_and_no_command() -> None:
    modules = imported_by("import penstock.cli")
    assert not modules & {
        "penstock.client",
        "penstock.cli.commands.stream",
        "celery",
        "rich",
        "redis",
    }


def test_the_stream_command_does_not_import_the_sdk_or_celery() -> None:
    modules = imported_by("import penstock.cli.commands.stream")
    assert not modules & {"anthropic", "celery", "rich"}


def test_the_version_option_prints_the_version_of_the_package() -> None:
    from penstock import __version__

    assert invoke("--version").stdout == f"penstock {__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "penstock: No such command 'nonsense' (see: penstock --help)\n"),
        (["stream", "hi", "--loud"], "penstock: No such option '--loud'"),
        (["stream", "hi", "--max-tokens", "many"], "'many' is not a valid integer"),
        (["stream", "--", ""], "the prompt is empty"),
        (["worker", "nonsense"], "'nonsense' is not one of 'streams', 'batches'"),
        (["batch", "submit", "/no/such/file"], "'/no/such/file': No such file or directory"),
    ],
)
def test_a_usage_error_is_one_line_with_exit_code_2(args: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, args, prog_name="penstock")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("penstock: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["stream", "hi"], "cannot be reached"),
        (["stream", "hi", "--max-tokens", "-1"], "max_tokens: "),
        (["follow", "1; drop"], "'1; drop' is not a valid id"),
        (["cancel", "nonsense"], "'nonsense' is not a valid id"),
        (["batch", "status", "nonsense"], "'nonsense' is not a valid id"),
        (["batch", "list"], "cannot be reached"),
    ],
)
def test_an_expected_error_is_one_line_with_exit_code_1(args: list[str], message: str) -> None:
    result = invoke(*args, env=NO_REDIS)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("penstock: ")
    assert result.stderr.count("\n") == 1


def test_an_invalid_setting_is_reported_in_one_line() -> None:
    result = invoke("batch", "list", env={"PENSTOCK_REDIS_URL": "http://redis"})
    assert result.exit_code == 1
    assert (
        result.stderr
        == "penstock: PENSTOCK_REDIS_URL: must start with redis://, rediss:// or unix://\n"
    )


@pytest.mark.parametrize("command", [["demo", "--live"], ["up"]])
def test_a_missing_api_key_is_reported_in_one_line(command: list[str]) -> None:
    result = invoke(*command, env={"HOME": "/nonexistent"})
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(
        "penstock: ANTHROPIC_API_KEY is not set; to run without a key: "
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["demo"], ["up", "--simulate"]])
@pytest.mark.parametrize("module", ["anthropic", "flower", "uvicorn"])
def test_a_missing_extra_is_reported_with_the_command_that_installs_it(
    module: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    result = invoke(*command, env={"PENSTOCK_REDIS_URL": ""})
    assert result.exit_code == 1
    assert result.stderr.endswith("is not installed. Try: pip install 'penstock-celery[demo]'\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NotFound("no record"), 1, "no record"),
        (InvalidRequest("is required", field="model", line=3), 1, "line 3: model: is required"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.jsonl"), 1, "x.jsonl: No such file"),
        (TimeoutError("no event for 3 s"), 1, "no event for 3 s"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (click.FileError("x", "unreadable"), 1, "Could not open file 'x': unreadable"),
        (CommandError("no such shard", 7), 7, "no such shard"),
    ],
)
def test_an_expected_error_has_a_message_and_an_exit_code(
    error: BaseException, code: int, line: str
) -> None:
    converted = as_command_error(error)
    assert converted is not None
    assert (converted.code, converted.message) == (code, line)


def test_an_unexpected_error_keeps_its_traceback() -> None:
    assert as_command_error(ZeroDivisionError("bug")) is None


def test_an_error_reply_of_redis_is_an_expected_error() -> None:
    import redis

    converted = as_command_error(redis.ResponseError("WRONGTYPE"))
    assert converted is not None
    assert converted.message == "Redis: WRONGTYPE"


def test_a_closed_stdout_prints_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert ran.stderr == b""
    assert ran.returncode != 0


@pytest.mark.parametrize(
    ("encoding", "arrow"), [("utf-8", "→"), ("latin-1", "\\u2192"), ("iso8859-15", "\\u2192")]
)
def test_a_character_that_the_terminal_lacks_is_escaped(encoding: str, arrow: str) -> None:
    """The findings of doctor contain an arrow, on stdout."""
    environment = {**os.environ, **NO_REDIS, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    command = [sys.executable, "-m", "penstock.cli", "doctor"]
    ran = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert ran.returncode == 1
    assert f"{arrow} to start a local one" in ran.stdout.decode(encoding)
    assert b"Traceback" not in ran.stderr
