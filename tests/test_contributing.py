"""The pages for contributors name files, settings and states that exist; CI runs what they say."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import WorkerSettings
from penstock.batches.shard import ShardState
from penstock.settings import RENAMED, variable_of
from penstock.states import State

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/glossary.md")
GLOSSARY = re.compile(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \|$", re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def glossary() -> list[tuple[str, str, str]]:
    """Word, meaning and place of each entry."""
    return GLOSSARY.findall(text_of("docs/glossary.md"))


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    """A file that is moved or renamed is moved in the pages too."""
    named = set(re.findall(r"`([\w.-]+/[\w./-]*)`", text_of(page)))
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_of_a_page_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page))
    folder = (ROOT / page).parent
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_a_page_names_exists(page: str) -> None:
    known = {variable_of(WorkerSettings, field) for field in WorkerSettings.model_fields}
    named = set(re.findall(r"PENSTOCK_[A-Z_]+[A-Z]", text_of(page)))
    assert named - known - {"PENSTOCK_REDIS_SERVER"} == set()
    assert named & set(RENAMED) == set()


def test_the_glossary_is_alphabetical_and_says_where_each_word_lives() -> None:
    entries = glossary()
    rows = [line for line in text_of("docs/glossary.md").splitlines() if line.startswith("| **")]
    assert len(entries) == len(rows) > 80
    words = [word.lower().replace("_", " ") for word, _, _ in entries]
    assert [pair for pair in pairwise(words) if pair[0] >= pair[1]] == []
    paths = {word: re.findall(r"`([^`]+)`", where) for word, _, where in entries}
    assert [word for word, found in paths.items() if not found] == []
    assert [path for found in paths.values() for path in found if not (ROOT / path).is_file()] == []


def section(heading: str) -> str:
    """The text under a heading of the architecture page, up to the next heading."""
    _, _, rest = text_of("docs/architecture.md").partition(f"\n### {heading}\n")
    return rest.partition("\n#")[0]


def drawn(heading: str) -> set[str]:
    """The states in a section's diagram: the words in boxes and the titles of frames."""
    diagram = section(heading).partition("```text\n")[2].partition("```")[0]
    return set(re.findall(r"[│─] +([a-z_]+) +[│─]", diagram))


def transitions(heading: str) -> set[tuple[str, str]]:
    """From and to of each row in a section's table; "" before the first state."""
    found = set()
    for line in section(heading).splitlines():
        if line.startswith("|"):
            left, entered = (re.findall(r"`(\w+)`", cell) for cell in line.split("|")[-4:-2])
            found |= {(before, after) for after in entered for before in left or [""]}
    return found


def test_the_state_diagrams_have_all_states_and_no_others() -> None:
    assert drawn("A request") == set(State)
    assert drawn("A job") == {*State, "active", "paused"}
    assert drawn("A shard") == set(ShardState)


@pytest.mark.parametrize("heading", ["A request", "A job", "A shard"])
def test_the_table_of_transitions_has_the_states_of_the_diagram(heading: str) -> None:
    found = transitions(heading)
    assert {state for pair in found for state in pair} - {""} == drawn(heading)
    assert len([after for before, after in found if not before]) == 1


def test_the_results_of_a_step_are_those_of_the_code() -> None:
    listed = re.findall(r"^\| `([A-Z]\w+)` \|", text_of("docs/architecture.md"), re.MULTILINE)
    code = text_of("tasks/batches/step_result.py")
    assert sorted(listed) == sorted(re.findall(r"^class (\w+)", code, re.MULTILINE))


def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text_of(".github/workflows/ci.yml"))
    return loaded


def test_the_workflow_and_the_script_of_ci_run_the_one_command() -> None:
    steps = workflow()["jobs"]["test"]["steps"]
    assert steps[-1] == {"run": "make test"}
    assert text_of(".ci/run").splitlines()[-1] == "exec make test"
    assert "`make test`" in text_of("CONTRIBUTING.md").splitlines()[2]


def test_the_workflow_tests_the_pythons_that_are_declared() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    declared = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    tested = workflow()["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert set(declared) <= set(tested)
    assert project["requires-python"] == f">={tested[0]}"


def test_the_hooks_run_the_commands_of_make_lint_and_types() -> None:
    (repository,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    recipes = re.findall(r"^\t@\$\(BIN\)/((?:ruff|mypy).*)$", text_of("Makefile"), re.MULTILINE)
    assert [hook["entry"] for hook in repository["hooks"]] == [
        f".venv/bin/{command}" for command in recipes
    ]
