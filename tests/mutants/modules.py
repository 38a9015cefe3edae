"""The modules that get faults, and the tests that should notice them."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Final

#: The core: an error here loses, doubles or overpays something without any message.
CORE: Final = (
    "penstock/json_text.py",
    "penstock/body/values.py",
    "penstock/streams/*.py",
    "penstock/follow/*.py",
    "penstock/store/lua/*.lua",
    "penstock/store/lua/include/*.lua",
    "penstock/store/lua/reaper/*.lua",
    "tasks/api/*.py",
    "tasks/streams/*.py",
    "tasks/streams/publish/*.py",
    "tasks/batches/billed_extras.py",
    "tasks/batches/claimed_shard.py",
    "tasks/batches/poll.py",
    "tasks/batches/result_lines.py",
    "tasks/batches/steps.py",
    "tasks/batches/stored_requests.py",
    "tasks/batches/collect/*.py",
    "tasks/batches/create/*.py",
    "tasks/batches/limits/*.py",
    "workers/loop.py",
    "workers/reaper.py",
)

#: Tests of a module that are not where its mirrored tests are: the beginnings of their paths.
ELSEWHERE: Final = {
    "penstock/store/lua/rate_limit_*.lua": "tests/contract/tasks/streams/test_rate_limit",
    "penstock/store/lua/size_lock_*.lua": "tests/contract/tasks/batches/create/",
    "penstock/store/lua/active_batch_*.lua": "tests/contract/tasks/batches/create/",
    "penstock/store/lua/cost_*.lua": "tests/contract/tasks/batches/create/",
    "penstock/store/lua/renew.lua": "tests/contract/penstock/store/test_claim",
    "penstock/store/lua/release.lua": "tests/contract/penstock/store/test_claim",
    "penstock/store/lua/job_*.lua": "tests/contract/penstock/store/test_job",
    "penstock/store/lua/shard_*.lua": "tests/contract/penstock/store/test_shard",
    "penstock/store/lua/reaper/shard.lua": "tests/contract/penstock/store/test_job",
    "penstock/store/lua/reaper/*.lua": "tests/contract/workers/",
    "tasks/api/message_stream.py": "tests/contract/tasks/streams/test_relay_faults",
    "tasks/api/rate_limits.py": "tests/contract/tasks/streams/test_rate_limit",
    "tasks/batches/claimed_shard.py": "tests/contract/tasks/batches/test_fence",
    "tasks/batches/collect/classifier.py": "tests/unit/tasks/batches/test_result_lines",
    "tasks/batches/stored_requests.py": "tests/contract/tasks/batches/create/test_split",
    "tasks/batches/limits/active_batches.py": "tests/contract/tasks/batches/create/",
    "tasks/batches/limits/cost_cap.py": "tests/contract/tasks/batches/create/",
}


def core_modules(root: Path) -> list[str]:
    """The paths of all core modules."""
    found = (path for pattern in CORE for path in sorted(root.glob(pattern)))
    return [str(path.relative_to(root)) for path in found if path.name != "__init__.py"]


def mirrored_tests(module: str, tests: list[str], root: Path) -> list[list[str]]:
    """Which of the test files to run for a module: those named after it, then their neighbours.

    A neighbour that does not import the module, not even through others, cannot notice its fault.
    """
    own, near = _mirrored(module, tests)
    if module.endswith(".py"):
        near = [test for test in near if module in _imported(test, root)]
    return [group for group in (own, near) if group]


def _mirrored(module: str, tests: list[str]) -> tuple[list[str], list[str]]:
    """The tests that are named after a module, and the others in the folders that mirror its."""
    path = Path(module)
    mirrored = path.parent
    while mirrored.name in ("lua", "include"):  # scripts are tested with the functions around them
        mirrored = mirrored.parent
    folders = [f"tests/{kind}/{mirrored}" for kind in ("unit", "contract")]
    named = tuple(f"{folder}/test_{path.stem}" for folder in folders)
    named += tuple(start for pattern, start in ELSEWHERE.items() if fnmatch(module, pattern))
    own = [test for test in tests if test.startswith(named)]
    return own, [test for test in tests if str(Path(test).parent) in folders and test not in own]


def _imported(file: str, root: Path) -> set[str]:
    """The files that a file imports, and those that they import."""
    found, todo = set[str](), [file]
    while todo:
        new = _imports(todo.pop(), root) - found
        found |= new
        todo += new
    return found


@cache
def _imports(file: str, root: Path) -> frozenset[str]:
    """The files that a file imports at any depth of its code."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    names = (name.replace(".", "/") for node in ast.walk(tree) for name in _names(node))
    return frozenset(f"{name}.py" for name in names if (root / f"{name}.py").is_file())


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
