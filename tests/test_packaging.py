"""The wheel as a user gets it: built here, installed in an empty environment outside the checkout.

Nothing is downloaded. The environment sees the packages that are installed here through a folder of
links: those that the wheel declares it needs, and no others.
"""

import contextlib
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import penstock
from penstock.local.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "tasks", "workers")
#: What a process inherits from us. Not PYTHONPATH and its like: they would lead to the checkout.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PENSTOCK_REDIS_SERVER")


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel in it."""

    path: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return Path(
            sysconfig.get_path("purelib", vars={"base": str(self.path), "platbase": str(self.path)})
        )

    def run(
        self, *command: str | Path, cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with what the environment alone provides; two minutes at most."""
        inherited = {name: os.environ[name] for name in KEPT if name in os.environ}
        with subprocess.Popen(
            command,
            cwd=cwd,
            env={**inherited, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail("not done in two minutes:\n" + "".join(process.communicate()))
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def prints(self, code: str, *, cwd: Path, env: dict[str, str] | None = None) -> str:
        """The output of some Python; fails with its traceback if it fails."""
        done = self.run(self.python, "-c", code, cwd=cwd, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def run_here(*command: str | Path) -> None:
    """Run one of our own tools; fails with what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def declared(wheel: Path, extra: str) -> set[str]:
    """The distributions that installing the wheel brings, here and now."""
    version = penstock.__version__
    ours = metadata.PathDistribution(zipfile.Path(wheel) / f"penstock-{version}.dist-info")
    found: set[tuple[str, str]] = set()
    todo = [("penstock", extra), ("penstock", "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        needs = ours.requires if name == "penstock" else metadata.requires(name)
        for need in map(Requirement, needs or []):
            if not need.marker or need.marker.evaluate({"extra": extra}):
                todo += [(need.name, wanted) for wanted in ("", *need.extras)]
    return {name for name, _ in found} - {"penstock"}


def link_dependencies(folder: Path, names: Iterable[str]) -> None:
    """Fill ``folder`` with links to these distributions' files."""
    folder.mkdir()
    for name in names:
        paths = metadata.distribution(name).files or []
        for top in {path.parts[0] for path in paths if path.parts[0] not in {"..", "__pycache__"}}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(metadata.distribution(name).locate_file(top))))


def install(wheel: Path, folder: Path, extra: str) -> Environment:
    """An environment with the wheel and what it declares as its dependencies."""
    environment = Environment(folder / "venv")
    venv.create(environment.path, with_pip=False, symlinks=True)
    link_dependencies(folder / "dependencies", declared(wheel, extra))
    (environment.packages / "dependencies.pth").write_text(f"{folder / 'dependencies'}\n")
    pip_install(environment, wheel)
    return environment


def pip_install(environment: Environment, wheel: Path, *options: str) -> None:
    """Install the wheel from outside: the environment has no pip."""
    pip = [sys.executable, "-m", "pip", "--python", str(environment.python), "install", "--quiet"]
    run_here(*pip, "--disable-pip-version-check", "--no-index", "--no-deps", *options, str(wheel))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    run_here(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    """The paths in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What ``pip install penstock[demo]`` makes."""
    return install(wheel, tmp_path_factory.mktemp("user"), "demo")


@pytest.fixture(scope="module")
def producer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What ``pip install penstock`` makes."""
    return install(wheel, tmp_path_factory.mktemp("producer"), "")


@pytest.fixture
def foreign_config(installed: Environment) -> Path:
    """Somebody else's package ``config`` in the same environment."""
    package = installed.packages / "config"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("OWNER = 'somebody else'\n")
    return package


def test_the_wheel_installs_one_name(names: list[str]) -> None:
    """Top-level `config`, `tasks` or `workers` would overwrite other people's modules."""
    version = penstock.__version__
    assert {name.partition("/")[0] for name in names} == {
        "penstock",
        f"penstock-{version}.dist-info",
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_carries_the_application_as_data(names: list[str], folder: str) -> None:
    """Every source file of the folder, and nothing that lies beside it by chance."""
    carried = {name for name in names if name.startswith(f"penstock/_app/{folder}/")}
    assert carried == {
        f"penstock/_app/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")
    }


def test_the_wheel_holds_the_scripts_the_type_marker_and_the_licence(names: list[str]) -> None:
    """What is not Python is easily forgotten."""
    scripts = {
        f"penstock/store/lua/{path.name}" for path in (ROOT / "penstock/store/lua").glob("*.lua")
    }
    assert len(scripts) > 3
    assert {*scripts, "penstock/py.typed"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


def test_the_package_is_imported_from_where_it_was_installed(
    installed: Environment, tmp_path: Path
) -> None:
    """Otherwise these tests would test the checkout."""
    found = installed.prints("import penstock; print(penstock.__file__)", cwd=tmp_path)
    assert Path(found).is_relative_to(installed.packages)
    assert installed.prints("import penstock; print(penstock.__version__)", cwd=tmp_path) == (
        penstock.__version__
    )


@pytest.mark.parametrize("name", [*FOLDERS, "tests", "benchmarks"])
def test_our_folders_cannot_be_imported_where_the_wheel_is_installed(
    installed: Environment, name: str
) -> None:
    """They belong to our processes, which get them by PYTHONPATH."""
    done = installed.run(installed.python, "-c", f"import {name}", cwd=Path("/"))
    assert done.returncode == 1
    assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr


def test_a_producer_needs_no_more_than_the_base_dependencies(
    producer: Environment, penstock_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    """A web application that only enqueues and reads does not install what only workers use."""
    code = """
import penstock
for name in penstock.__all__:
    getattr(penstock, name)
with penstock.Client() as client:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    request = client.messages.enqueue(**body)
    batch = client.messages.batches.create(requests=[{"custom_id": "a", "params": body}])
from penstock.cli import cli
print(cli.name)
import anthropic
"""
    env = {"PENSTOCK_REDIS_URL": penstock_redis.url}
    done = producer.run(producer.python, "-c", code, cwd=tmp_path, env=env)
    assert done.stdout == "cli\n", done.stderr
    assert done.stderr.endswith("No module named 'anthropic'\n")


def test_somebody_elses_config_stays_theirs(
    installed: Environment, wheel: Path, foreign_config: Path, tmp_path: Path
) -> None:
    """Installing us over it, once more even, changes nothing of it."""
    before = (foreign_config / "__init__.py").read_bytes()
    pip_install(installed, wheel, "--force-reinstall")
    assert (foreign_config / "__init__.py").read_bytes() == before
    assert list(foreign_config.glob("*.py")) == [foreign_config / "__init__.py"]
    theirs = "import penstock, config; print(config.OWNER)"
    assert installed.prints(theirs, cwd=tmp_path) == "somebody else"


@pytest.mark.parametrize("extra", [{}, {"PYTHONSAFEPATH": "1"}], ids=["plain", "safe path"])
def test_workers_find_our_config_although_somebody_elses_is_installed(
    installed: Environment, foreign_config: Path, tmp_path: Path, extra: dict[str, str]
) -> None:
    """The environment that the command line gives to a worker decides."""
    ask = "from penstock.local.stack import python_path; print(python_path()['PYTHONPATH'])"
    path = installed.prints(ask, cwd=tmp_path)
    where = "import workers.app, config, penstock; print(config.__file__, penstock.__file__)"
    env = {**extra, "PYTHONPATH": path}
    ours, package = installed.prints(where, cwd=tmp_path, env=env).split()
    assert Path(ours) == installed.packages / "penstock/_app/config/__init__.py"
    assert Path(package) == installed.packages / "penstock/__init__.py"
    assert foreign_config.exists()


@pytest.mark.timeout(180)
def test_the_demo_runs_from_the_wheel_and_leaves_nothing_behind(
    installed: Environment, tmp_path: Path
) -> None:
    """`pip install penstock[demo]`, `penstock demo`: no checkout, no Redis, no key."""
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    done = installed.run(
        installed.path / "bin" / "penstock",
        "demo",
        cwd=Path("/"),
        env={"TMPDIR": str(temporary), "HOME": str(home)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [*temporary.iterdir(), *home.iterdir()] == []
    assert running_with(f"TMPDIR={temporary}") == []


def running_with(variable: str) -> list[str]:
    """The processes with this in their environment, where the system shows it (Linux)."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in environ.read_bytes().split(b"\0"):
                found.append(environ.parent.name)
    return found
