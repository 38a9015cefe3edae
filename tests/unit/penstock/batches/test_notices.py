"""Pause reasons and alerts: the code, the command line and docs/batches.md have the same ones."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from penstock.batches.notices import Alert, PauseReason
from penstock.batches.view import Notice

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")

#: Error types that only the API names: the workers pass them on as the reason of a pause.
OF_THE_API = {
    PauseReason.RATE_LIMIT_ERROR,
    PauseReason.INVALID_REQUEST_ERROR,
    PauseReason.NOT_FOUND_ERROR,
}

Kind = type[PauseReason] | type[Alert]


def nodes() -> Iterator[ast.AST]:
    """Everything in the source of the batch tasks."""
    for path in sorted((ROOT / "tasks" / "batches").rglob("*.py")):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def raised(kind: Kind) -> set[str]:
    """The members of an enum that the batch tasks name."""
    return {
        node.attr
        for node in nodes()
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == kind.__name__
    }


def table(header: str) -> dict[str, tuple[str, ...]]:
    """The rows of a table of the page by the value in their first cell; no backticks."""
    _, _, rest = PAGE.partition(header)
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", rest.partition("\n\n")[0], re.MULTILINE)
    return {name: (meaning, remedy) for name, meaning, remedy in rows}


def without_backticks(cells: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(cell.replace("`", "") for cell in cells)


@pytest.mark.parametrize(
    ("kind", "header"),
    [(PauseReason, "| reason | what has happened |"), (Alert, "| alert | what has happened |")],
)
def test_the_docs_list_every_notice_with_its_meaning_and_its_remedy(
    kind: Kind, header: str
) -> None:
    listed = {name: without_backticks(cells) for name, cells in table(header).items()}
    assert listed == {str(each): (each.meaning, each.remedy) for each in kind}


def test_every_pause_reason_and_alert_is_raised_by_a_batch_task() -> None:
    assert raised(Alert) == {each.name for each in Alert}
    assert raised(PauseReason) == {each.name for each in set(PauseReason) - OF_THE_API}


def test_the_batch_tasks_raise_no_notice_by_a_bare_string() -> None:
    alerts = [
        node.args[0]
        for node in nodes()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "alert"
    ]
    assert len(alerts) >= 8
    assert not [ast.unparse(kind) for kind in alerts if isinstance(kind, ast.Constant)]
    strings = {node.value for node in nodes() if isinstance(node, ast.Constant)}
    assert not strings & ({*Alert, *PauseReason} - OF_THE_API)


@pytest.mark.parametrize("kind", [PauseReason, Alert])
def test_a_notice_says_in_one_line_what_happened_and_what_to_do(kind: Kind) -> None:
    for each in kind:
        for line in (each.meaning, each.remedy):
            assert line
            assert "\n" not in line
            assert not line.endswith(".")


def test_a_notice_is_stored_as_a_plain_string() -> None:
    stored = orjson.dumps({"type": PauseReason.COST_LIMIT})
    assert stored == b'{"type":"cost_limit"}'
    assert PauseReason.of(orjson.loads(stored)["type"]) is PauseReason.COST_LIMIT


def test_a_notice_of_a_newer_worker_is_shown_as_it_is() -> None:
    raw = {"type": "something_new", "message": "new words", "at_ms": 1_000}
    notice = Notice.of(raw)
    assert notice is not None
    assert (notice.type, notice.message) == ("something_new", "new words")
    assert PauseReason.of("something_new") is None
    assert Alert.of("something_new") is None
