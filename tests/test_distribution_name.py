"""The name that pip installs is `penstock-celery`, on every page and in every message."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from docs.site.pages import written_pages
from penstock.errors import DISTRIBUTION

ROOT: Final = Path(__file__).resolve().parent.parent

#: Ways to write `penstock` where the name of the distribution belongs.
WRONG: Final = (
    re.compile(r"\bpip3?\s+install\b(?:[^\n#;&|`]|\\\n)*?(?<![\w./-])penstock(?![\w-])"),
    re.compile(r"\b(?:[Ii]nstall(?:s|ed|ing)?|add|uvx)\s+[`'\"]*penstock(?![\w-])"),
    re.compile(r"(?<![\w-])penstock\\?\["),  # an extra; with a backslash in a regular expression
    re.compile(r"(?<![\w-])penstock\s?(?:==|[<>~!]=)\s?\d"),
    re.compile(r"\bpypi\.org/(?:project|simple)/penstock(?![\w-])"),
)
#: Entries of the root folder that are not part of the project.
IGNORED: Final = {
    ".git",
    *(line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()),
}


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the project, this one excepted: path and content."""
    for folder, below, names in os.walk(ROOT):
        here = Path(folder)
        skipped = IGNORED if here == ROOT else {"__pycache__"}
        below[:] = [name for name in below if name not in skipped]
        for path in (here / name for name in names if name not in skipped):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if path != Path(__file__).resolve():
                yield path.relative_to(ROOT), text


def wrong_in(text: str) -> list[str]:
    """``line: text`` of each place that uses the package's name as the distribution's."""
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for pattern in WRONG
        for match in pattern.finditer(text)
    ]


def test_error_messages_name_the_distribution_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == DISTRIBUTION == "penstock-celery"
    assert list(project["scripts"]) == ["penstock"]


def test_no_text_of_the_project_installs_a_distribution_called_penstock() -> None:
    """Pages, messages, extras, tests and container files."""
    found = {str(path): wrong_in(text) for path, text in texts()}
    assert {"README.md", "pyproject.toml", "Dockerfile", ".github/ISSUE_TEMPLATE/bug.yml"} <= set(
        found
    )
    assert {path: places for path, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "text",
    [
        "$ pip install penstock",
        "`pip install penstock`, then",
        "pip install 'penstock[worker]'",
        'pip3 install --upgrade "penstock"',
        "RUN pip install --no-cache-dir \\\n    penstock",
        "pip install celery penstock\n",
        "an application installs `penstock` alone",
        "uv add penstock",
        '"penstock[demo,spool]",',
        r"match=r'penstock\[spool\]'",
        "penstock>=0.1",
        "https://pypi.org/project/penstock/",
    ],
)
def test_the_wrong_name_is_found_in_each_way_to_write_it(text: str) -> None:
    assert wrong_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'penstock-celery[worker]'   # penstock worker streams",
        "pip install -e . && penstock demo",
        "`pip install penstock-celery`, `import penstock`",
        "pip install ./penstock/dist/penstock_celery-0.1.0-py3-none-any.whl",
        "what producers and readers install: penstock/",
        'if package == "penstock":',
    ],
)
def test_the_package_and_the_command_keep_their_name(text: str) -> None:
    assert wrong_in(text) == []


def test_the_readme_explains_the_name_once() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    explained = "because the name `penstock` on PyPI belongs to another project"
    assert readme.count(explained) == 1
    assert "the package is imported as `penstock`" in readme


def test_every_page_that_suggests_up_simulate_names_the_extra_that_it_needs() -> None:
    """The extras `worker` and `simulator` are not enough for `penstock up --simulate`."""
    pages = {
        str(path): text
        for path in written_pages()
        if "penstock up --simulate" in (text := (ROOT / path).read_text(encoding="utf-8"))
    }
    assert {"README.md", "docs/guide.md", "docs/simulator.md"} <= set(pages)
    assert [page for page, text in pages.items() if "penstock-celery[demo]" not in text] == []
