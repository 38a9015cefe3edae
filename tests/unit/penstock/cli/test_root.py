"""The frame of the command line: its help, what it imports, and how failures are told."""

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

#: An address at which nobody listens: port 1 of loopback.
NO_REDIS = {"PENSTOCK_REDIS_URL": "redis://127.0.0.1:1/0"}
NAMES = [name for section in COMMANDS.values() for name in section]


def invoke(*args: str, input: str = "", env: Mapping[str, str] | None = None) -> Result:
    """Run a command in this process; an unforeseen exception fails the test."""
    return CliRunner(env=env).invoke(cli, args, input=input, catch_exceptions=False)


def imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running ``code``."""
    listing = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    return set(ran.stdout.split())


def test_the_help_names_every_command_and_what_it_is_for() -> None:
    shown = invoke("--help")
    assert shown.exit_code == 0
    for section, commands in COMMANDS.items():
        assert f"{section}:" in shown.stdout
        for name, (_, purpose) in commands.items():
            assert f"  {name.ljust(8)}  {purpose}" in shown.stdout


def test_no_arguments_at_all_show_the_help() -> None:
    shown = invoke()
    assert "First steps" in shown.stderr
    assert shown.exit_code == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_command_says_the_same_of_itself_as_the_overview(name: str) -> None:
    purposes = {name: what for section in COMMANDS.values() for name, (_, what) in section.items()}
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == purposes[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_teaches_with_an_example(name: str) -> None:
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    assert f"penstock {name}" in shown.stdout


def test_the_help_imports_neither_a_client_nor_a_command() -> None:
    modules = imported_by("import penstock.cli")
    assert not modules & {
        "penstock.client",
        "penstock.cli.commands.stream",
        "celery",
        "rich",
        "redis",
    }


def test_the_command_that_streams_imports_only_what_it_needs() -> None:
    modules = imported_by("import penstock.cli.commands.stream")
    assert not modules & {"anthropic", "celery", "rich"}


def test_the_version_is_the_packages_own() -> None:
    from penstock import __version__

    assert invoke("--version").stdout == f"penstock {__version__}\n"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nonsense"], "penstock: No such command 'nonsense' (see: penstock --help)\n"),
        (["stream", "hi", "--loud"], "penstock: No such option '--loud'"),
        (["stream", "hi", "--max-tokens", "many"], "'many' is not a valid integer"),
        (["stream", "--", ""], "the prompt is empty"),
        (["worker", "nonsense"], "'nonsense' is not one of 'streams', 'batches'"),
        (["batch", "submit", "/no/such/file"], "'/no/such/file': No such file or directory"),
    ],
)
def test_a_wrong_use_is_one_line_and_exit_code_2(args: list[str], told: str) -> None:
    result = CliRunner().invoke(cli, args, prog_name="penstock")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert told in result.stderr
    assert result.stderr.startswith("penstock: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["stream", "hi"], "cannot be reached"),
        (["stream", "hi", "--max-tokens", "0"], "max_tokens: "),
        (["follow", "1; drop"], "'1; drop' is not an id"),
        (["cancel", "nonsense"], "'nonsense' is not an id"),
        (["batch", "status", "nonsense"], "'nonsense' is not an id"),
        (["batch", "list"], "cannot be reached"),
    ],
)
def test_an_expected_error_is_one_line_and_exit_code_1(args: list[str], told: str) -> None:
    result = invoke(*args, env=NO_REDIS)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert told in result.stderr
    assert result.stderr.startswith("penstock: ")
    assert result.stderr.count("\n") == 1


def test_a_wrong_setting_is_one_line() -> None:
    result = invoke("batch", "list", env={"PENSTOCK_REDIS_URL": "http://redis"})
    assert result.exit_code == 1
    assert result.stderr == "penstock: PENSTOCK_REDIS_URL: must start with redis:// or rediss://\n"


@pytest.mark.parametrize("command", [["demo", "--live"], ["up"]])
def test_the_real_api_without_a_key_is_one_line(command: list[str]) -> None:
    result = invoke(*command, env={"HOME": "/nonexistent"})
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("penstock: ANTHROPIC_API_KEY is not set. Without a key try: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["anthropic", "flower", "uvicorn"])
def test_a_missing_extra_is_one_line_that_installs_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what `import` sees of what is not installed
    result = invoke("demo")
    assert result.exit_code == 1
    assert result.stderr.endswith("is not installed. Try: pip install 'penstock[demo]'\n")
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
        (CommandError("so it is", 7), 7, "so it is"),
    ],
)
def test_each_foreseen_error_has_a_line_and_a_code(
    error: BaseException, code: int, line: str
) -> None:
    failure = as_command_error(error)
    assert failure is not None
    assert (failure.code, failure.message) == (code, line)


def test_an_error_that_nobody_foresaw_keeps_its_traceback() -> None:
    assert as_command_error(ZeroDivisionError("bug")) is None


def test_what_redis_refuses_is_an_expected_error() -> None:
    import redis

    failure = as_command_error(redis.ResponseError("WRONGTYPE"))
    assert failure is not None
    assert failure.message == "Redis: WRONGTYPE"


def test_a_closed_stdout_is_silent() -> None:
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
