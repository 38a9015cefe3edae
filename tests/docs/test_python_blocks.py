"""Python blocks in the documentation run unchanged, page by page, against real workers."""

import ast
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from docs.site.pages import ROOT
from penstock import Client
from penstock.local.stack import WorkerProcess
from tests.docs.blocks import Block, blocks

PYTHON = blocks("python")
#: Programs of their own, which the contract test of the page runs.
PROGRAMS = {ROOT / "docs" / "protocol.md", ROOT / "docs" / "simulator.md"}
RUN = sorted({block.page for block in PYTHON} - PROGRAMS)


def executed(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the page's namespace; a traceback shows the line of the page."""
    tree = ast.parse(block.text, str(block.page))
    exec(compile(ast.increment_lineno(tree, block.line - 1), str(block.page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run_in_their_order(
    page: Path,
    request: pytest.FixtureRequest,
    penstock_workers: list[WorkerProcess],
    penstock_environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", penstock_environment["PENSTOCK_REDIS_URL"])
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        for block in (block for block in PYTHON if block.page == page):
            executed(block, names)
        for name, test in list(names.items()):
            if name.startswith("test_"):  # a block that shows a test, with our own fixtures
                test(*map(request.getfixturevalue, inspect.signature(test).parameters))
    finally:
        for value in names.values():
            if isinstance(value, Client):
                value.close()


@pytest.mark.parametrize("block", [*PYTHON, *blocks("json")], ids=str)
def test_a_block_has_values_in_place_of_dots(block: Block) -> None:
    assert "…" not in block.text
    if block.language == "python":
        constants = [
            node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Constant)
        ]
        assert all(constant.value is not ... for constant in constants)
