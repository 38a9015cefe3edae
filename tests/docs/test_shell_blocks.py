"""Shell commands in the documentation: the shell parses them, and penstock has them."""

import re
import shutil
import subprocess

import click
import pytest

from docs.site.pages import ROOT
from penstock.cli import cli
from tests.docs.blocks import SHELL, Block, blocks, commands, simple_commands

CALLS = sorted({(tuple(arguments), where) for where, arguments in commands("penstock")})


def checked(arguments: list[str]) -> str:
    """Return the path of the command that these arguments call. Raises `click.UsageError`."""
    command: click.Command = cli
    context = click.Context(command, info_name="penstock")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        context, command = click.Context(found, info_name=name, parent=context), found
    values, _, _ = command.make_parser(context).parse_args(arguments)
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type_cast_value(context, value)
    return context.command_path


@pytest.mark.parametrize("block", blocks(*SHELL), ids=str)
def test_a_shell_block_is_valid_shell_without_placeholders(block: Block) -> None:
    shell = shutil.which("bash") or "/bin/sh"
    parsed = subprocess.run(
        [shell, "-n"], input=block.script, capture_output=True, text=True, check=False
    )
    assert (parsed.returncode, parsed.stderr) == (0, "")
    assert "…" not in block.script
    assert " ..." not in block.script


@pytest.mark.parametrize(("arguments", "where"), CALLS, ids=lambda value: str(value))
def test_a_penstock_command_in_the_docs_exists_with_its_options(
    arguments: tuple[str, ...], where: str
) -> None:
    checked([*arguments])


def test_the_make_targets_in_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    called = {arguments[0] for _, arguments in commands("make")}
    assert "demo" in called
    assert called - targets == set()


def test_commands_are_found_in_substitutions_pipes_and_after_assignments() -> None:
    script = "id=$(penstock batch submit a.jsonl --canary 3)\nA=1 cat q | penstock stream -m x  # c"
    assert list(simple_commands(script)) == [
        ["penstock", "batch", "submit", "a.jsonl", "--canary", "3"],
        ["cat", "q"],
        ["penstock", "stream", "-m", "x"],
    ]


@pytest.mark.parametrize(
    "arguments", [["banana"], ["batch", "submit", "--banana"], ["worker", "banana"]]
)
def test_a_command_or_an_option_that_does_not_exist_is_found(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        checked(arguments)
