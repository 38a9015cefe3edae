"""The page of commands, generated from the commands of ``penstock``."""

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from penstock.cli import cli

_INTRODUCTION = """\
# Commands

`penstock COMMAND --help` prints the same. An error is one line on stderr and a non-zero exit code.
This page is generated from the code of the version it describes.
"""


def commands() -> Iterator[click.Context]:
    """Return a context for every command, groups included, in the order of the help."""
    root = click.Context(cli, info_name="penstock")
    yield from _below(root)


def _below(parent: click.Context) -> Iterator[click.Context]:
    group = parent.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        yield context
        if isinstance(command, click.Group):
            yield from _below(context)


def commands_page() -> str:
    """Return the page that describes every command."""
    return "\n".join([_INTRODUCTION, *map(_entry, commands())])


def _entry(context: click.Context) -> str:
    level = "#" * (context.command_path.count(" ") + 1)
    usage = [context.command_path, *context.command.collect_usage_pieces(context)]
    blocks = [f"{level} {context.command_path}", f"```text\n{' '.join(usage)}\n```"]
    blocks += _paragraphs(context.command.help or "")
    blocks += _options(context)
    return "\n\n".join(blocks) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """Return the paragraphs of a command's help, with verbatim ones as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        mark, _, lines = paragraph.partition("\n")
        yield f"```sh\n{textwrap.dedent(lines)}\n```" if mark == "\b" else paragraph


def _options(context: click.Context) -> Iterator[str]:
    options = [each for each in context.command.params if isinstance(each, click.Option)]
    rows = []
    for names, meaning in filter(None, (option.get_help_record(context) for option in options)):
        cells = [f"`{names}`", re.sub(" {2,}", " ", meaning)]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    if rows:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])
