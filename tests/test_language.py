"""The language of the project: phrases that a reader has to decode do not come back."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent

#: Everything that a person reads, and the code that prints it.
FOLDERS: Final = ("penstock", "config", "tasks", "workers", "benchmarks", "docs", "tests")
PAGES: Final = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile")
SUFFIXES: Final = {".py", ".lua", ".md", ".css", ".yml"}

#: Phrase → what to write in its place.
BANNED: Final = {
    r"\b(some|no|any|every)body\b": "name the actor: the worker, the reader, the operator, …",
    r"\bwho(so)?ever\b": "name the actor",
    r"\banew\b": "again",
    r"\bmeanwhile\b": "during, while",
    r"\bgo(es|ne|ing)? on with\b|\bwent on with\b": "resume, continue",
    r"\b(it|they|job|work|stream|answer|worker|reader|loop) goes on\b": "continues",
    r"\b(break|breaks|broke|broken|breaking) off\b": "interrupt, interrupted",
    r"\bmend(s|ed|ing)?\b": "fix, repair, resume",
    r"\btwins?\b": "duplicate batch",
    r"\bstrangers?\b": "unknown batch",
    r"\bso (long|many|much|often) (a|as)\b": "for as long as, how many, …",
    r"\bso many (seconds|ms|bytes|lines|requests|times|characters|events|deltas)\b": "that many, N",
    r"\b(is|are|was|were|be|been|being|stays?) away\b": "unavailable",
    r"\bfor want of\b": "without, because there is no",
    r"\bput right\b": "resolved, fixed",
    r"\b(tells?|told|telling)\b": "reports, returns, says",
    r"\bpatien(ce|t|tly)\b": "retry, wait, timeout",
    r"\b(lies?|lying) (in|beside|there|elsewhere|under|at|between)\b": "is stored, is",
    r"\bas (it|they|he|she) stands?\b": "current, unchanged",
    r"\bbehind (the|it|them|a|an|its|their|this|that|each|every|all|another|what|which)\b": "after",
    r"\bgone on\b": "continued, resumed",
}

#: What the phrases above mean where they are right.
ALLOWED: Final = (
    r"behind (a|the|an|another) (\w+ )?(proxy|gateway|firewall|load balancer|NAT|password|VPN)",
)


def readable_files() -> Iterator[Path]:
    """Every source file and page, this one excepted."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in sorted([*paths, *(ROOT / page for page in PAGES)]):
        ours = path != Path(__file__).resolve() and not path.is_relative_to(ROOT / "tests/data")
        if ours and path.is_file() and (path.suffix in SUFFIXES or path.name in PAGES):
            yield path


def banned_in(text: str) -> list[str]:
    """``line: phrase (better)`` for each banned phrase in a text."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        cleaned = line.replace("_", " ")
        for allowed in ALLOWED:
            cleaned = re.sub(allowed, "", cleaned)
        found += [
            f"{number}: {match[0]} (better: {better})"
            for phrase, better in BANNED.items()
            if (match := re.search(phrase, cleaned, re.IGNORECASE))
        ]
    return found


def test_no_file_contains_a_banned_phrase() -> None:
    """Names of tests and functions count as text: their underscores are read as spaces."""
    found = [
        f"{path.relative_to(ROOT)}:{each}"
        for path in readable_files()
        for each in banned_in(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize(
    "line", ["Somebody else is at this shard", "def test_a_late_twin_is_canceled", "it goes on"]
)
def test_a_banned_phrase_is_found_in_prose_and_in_names(line: str) -> None:
    assert banned_in(line)


def test_no_help_text_contains_a_banned_phrase() -> None:
    """`--help` of every command, as it is printed."""
    code = (
        "import click\n"
        "from penstock.cli import cli\n"
        "def show(command, context):\n"
        "    print(command.get_help(context))\n"
        "    for name in getattr(command, 'list_commands', lambda _: [])(context):\n"
        "        child = command.get_command(context, name)\n"
        "        show(child, click.Context(child, info_name=name, parent=context))\n"
        "show(cli, click.Context(cli, info_name='penstock'))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "Usage: penstock batch submit" in printed
    assert banned_in(printed) == []
