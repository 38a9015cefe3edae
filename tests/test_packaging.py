"""The wheel, built here and installed in an environment outside the checkout.

Nothing is downloaded. The environment contains links to packages that are installed here: those
that the wheel declares as its dependencies and no others.
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
from penstock.local.stack import SimulatorProcess

ROOT = Path(__file__).resolve().parent.parent
#: The name that pip installs; the package and the command are called ``penstock``.
DISTRIBUTION = "penstock-celery"
#: The folder of its metadata, in the wheel and in the environment.
DIST_INFO = f"penstock_celery-{penstock.__version__}.dist-info"
FOLDERS = ("config", "tasks", "workers")
#: The variables that a process inherits; PYTHONPATH and others would lead to the checkout.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PENSTOCK_REDIS_SERVER")


@dataclass(frozen=True)
class Environment:
    """A virtual environment in which the wheel is installed."""

    path: Path

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.path / "bin" / "python"

    @property
    def packages(self) -> Path:
        """The site-packages of the environment."""
        return Path(
            sysconfig.get_path("purelib", vars={"base": str(self.path), "platbase": str(self.path)})
        )

    def start(
        self, *command: str | Path, cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command of the environment, with pipes for its output."""
        inherited = {name: os.environ[name] for name in KEPT if name in os.environ}
        return subprocess.Popen(
            [self.path / "bin" / command[0], *command[1:]],
            cwd=cwd,
            env={**inherited, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *command: str | Path, cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, for at most two minutes."""
        with self.start(*command, cwd=cwd, env=env) as process:
            try:
                out, err = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail("not finished after two minutes:\n" + "".join(process.communicate()))
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def prints(self, code: str, *, cwd: Path, env: dict[str, str] | None = None) -> str:
        """Run Python code and return its output; a failure shows its traceback."""
        done = self.run("python", "-c", code, cwd=cwd, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def run_here(*command: str | Path) -> None:
    """Run a tool of the checkout; a failure shows its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def metadata_of(wheel: Path) -> metadata.PathDistribution:
    """Return the metadata in the wheel."""
    return metadata.PathDistribution(zipfile.Path(wheel) / DIST_INFO)


def declared(wheel: Path, extra: str) -> set[str]:
    """Return the names of the distributions that installing the wheel requires here."""
    ours = metadata_of(wheel)
    found: set[tuple[str, str]] = set()
    todo = [(DISTRIBUTION, extra), (DISTRIBUTION, "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        needs = ours.requires if name == DISTRIBUTION else metadata.requires(name)
        for need in map(Requirement, needs or []):
            if not need.marker or need.marker.evaluate({"extra": extra}):
                todo += [(need.name, wanted) for wanted in ("", *need.extras)]
    return {name for name, _ in found} - {DISTRIBUTION}


def link_dependencies(folder: Path, names: Iterable[str]) -> None:
    """Fill ``folder`` with links to the files of these distributions."""
    folder.mkdir()
    for name in names:
        paths = metadata.distribution(name).files or []
        for top in {path.parts[0] for path in paths if path.parts[0] not in {"..", "__pycache__"}}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(metadata.distribution(name).locate_file(top))))


def install(wheel: Path, folder: Path, extra: str) -> Environment:
    """Create an environment with the wheel and its declared dependencies."""
    environment = Environment(folder / "venv")
    venv.create(environment.path, with_pip=False, symlinks=True)
    link_dependencies(folder / "dependencies", declared(wheel, extra))
    (environment.packages / "dependencies.pth").write_text(f"{folder / 'dependencies'}\n")
    pip_install(environment, wheel)
    return environment


def pip_install(environment: Environment, wheel: Path, *options: str) -> None:
    """Install the wheel with the pip of the checkout; the environment has none."""
    pip = [sys.executable, "-m", "pip", "--python", str(environment.python), "install", "--quiet"]
    run_here(*pip, "--disable-pip-version-check", "--no-index", "--no-deps", *options, str(wheel))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run_here(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    """The paths of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment after ``pip install 'penstock-celery[demo]'``."""
    return install(wheel, tmp_path_factory.mktemp("user"), "demo")


@pytest.fixture(scope="module")
def producer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment after ``pip install penstock-celery``."""
    return install(wheel, tmp_path_factory.mktemp("producer"), "")


@pytest.fixture(scope="module")
def worker_machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment after ``pip install 'penstock-celery[worker]'``."""
    return install(wheel, tmp_path_factory.mktemp("worker"), "worker")


@pytest.fixture
def foreign_config(installed: Environment) -> Path:
    """A package ``config`` of another project in the same environment."""
    package = installed.packages / "config"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("OWNER = 'another project'\n")
    return package


def test_the_wheel_installs_one_top_level_package(names: list[str]) -> None:
    """A top-level `config` or `tasks` would overwrite modules of other projects."""
    assert {name.partition("/")[0] for name in names} == {"penstock", DIST_INFO}


def test_the_distribution_is_called_penstock_celery(wheel: Path) -> None:
    """The name `penstock` on PyPI belongs to another project, so nothing may require it."""
    ours = metadata_of(wheel)
    assert ours.metadata["Name"] == DISTRIBUTION
    assert wheel.name.startswith(f"penstock_celery-{penstock.__version__}-")
    extras = {"worker", "simulator", "demo", "spool", "parquet", "dev"}
    assert set(ours.metadata.get_all("Provides-Extra") or []) == extras
    needs = {Requirement(need).name for need in ours.requires or []}
    assert "celery" in needs
    assert "penstock" not in needs


def test_installing_the_distribution_provides_the_package_and_the_command_penstock(
    producer: Environment, tmp_path: Path
) -> None:
    """`pip install penstock-celery`, `import penstock`, `penstock --version`."""
    code = """
import penstock
from importlib import metadata
print(metadata.packages_distributions()["penstock"], metadata.version("penstock-celery"))
metadata.version("penstock")
"""
    done = producer.run("python", "-c", code, cwd=tmp_path)
    assert done.stdout == f"['{DISTRIBUTION}'] {penstock.__version__}\n", done.stderr
    assert "PackageNotFoundError" in done.stderr
    command = producer.run("penstock", "--version", cwd=tmp_path)
    assert command.stdout == f"penstock {penstock.__version__}\n", command.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_contains_the_application_as_data(names: list[str], folder: str) -> None:
    """Every source file of the folder and no other file."""
    bundled = {name for name in names if name.startswith(f"penstock/_app/{folder}/")}
    assert bundled == {
        f"penstock/_app/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")
    }


def test_the_wheel_contains_the_lua_scripts_the_type_marker_and_the_license(
    names: list[str],
) -> None:
    """Files other than Python are easily forgotten."""
    folder = ROOT / "penstock/store/lua"
    scripts = {str(path.relative_to(ROOT)) for path in folder.rglob("*.lua")}
    assert len(scripts) > 3
    assert {*scripts, "penstock/py.typed"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


def test_the_package_is_imported_from_the_environment(
    installed: Environment, tmp_path: Path
) -> None:
    """Otherwise these tests would test the checkout."""
    found = installed.prints("import penstock; print(penstock.__file__)", cwd=tmp_path)
    assert Path(found).is_relative_to(installed.packages)
    assert installed.prints("import penstock; print(penstock.__version__)", cwd=tmp_path) == (
        penstock.__version__
    )


@pytest.mark.parametrize("name", [*FOLDERS, "tests", "benchmarks"])
def test_the_application_folders_cannot_be_imported_from_the_wheel(
    installed: Environment, name: str
) -> None:
    """Only the processes of Penstock import them, through PYTHONPATH."""
    done = installed.run("python", "-c", f"import {name}", cwd=Path("/"))
    assert done.returncode == 1
    assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr


def test_a_producer_needs_only_the_base_dependencies(
    producer: Environment, penstock_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    """A web application that enqueues and reads does not install the SDK."""
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
    done = producer.run("python", "-c", code, cwd=tmp_path, env=env)
    assert done.stdout == "cli\n", done.stderr
    assert done.stderr.endswith("No module named 'anthropic'\n")


def test_a_config_package_of_another_project_is_left_unchanged(
    installed: Environment, wheel: Path, foreign_config: Path, tmp_path: Path
) -> None:
    """Installing the wheel again does not change it."""
    before = (foreign_config / "__init__.py").read_bytes()
    pip_install(installed, wheel, "--force-reinstall")
    assert (foreign_config / "__init__.py").read_bytes() == before
    assert list(foreign_config.glob("*.py")) == [foreign_config / "__init__.py"]
    theirs = "import penstock, config; print(config.OWNER)"
    assert installed.prints(theirs, cwd=tmp_path) == "another project"


@pytest.mark.parametrize("extra", [{}, {"PYTHONSAFEPATH": "1"}], ids=["plain", "safe path"])
def test_workers_import_the_config_of_penstock_and_not_that_of_another_project(
    installed: Environment, foreign_config: Path, tmp_path: Path, extra: dict[str, str]
) -> None:
    """PYTHONPATH, which the command line sets for workers, takes precedence."""
    ask = "from penstock.local.stack import python_path; print(python_path()['PYTHONPATH'])"
    path = installed.prints(ask, cwd=tmp_path)
    where = "import workers.app, config, penstock; print(config.__file__, penstock.__file__)"
    env = {**extra, "PYTHONPATH": path}
    ours, package = installed.prints(where, cwd=tmp_path, env=env).split()
    assert Path(ours) == installed.packages / "penstock/_app/config/__init__.py"
    assert Path(package) == installed.packages / "penstock/__init__.py"
    assert foreign_config.exists()


def test_up_simulate_on_a_worker_machine_names_the_extra_that_it_needs(
    worker_machine: Environment, wheel: Path, tmp_path: Path
) -> None:
    """The extra `worker` contains no simulator; the extra that the error names does."""
    done = worker_machine.run("penstock", "up", "--simulate", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "penstock: the simulator's web server (uvicorn) is not installed. "
        f"Try: pip install '{DISTRIBUTION}[demo]'\n"
    )
    assert "uvicorn" not in declared(wheel, "worker")
    assert declared(wheel, "demo") >= declared(wheel, "worker") | declared(wheel, "simulator")


@pytest.mark.parametrize("command", ["penstock simulate", "python -m penstock.simulator"])
def test_the_simulator_on_a_worker_machine_names_the_extra_that_it_needs(
    worker_machine: Environment, command: str, tmp_path: Path
) -> None:
    done = worker_machine.run(*command.split(), cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.endswith(f": pip install '{DISTRIBUTION}[simulator]'\n")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("worker streams", "worker"),
        ("flower", "worker"),
        ("simulate", "simulator"),
        ("up --simulate", "demo"),
        ("demo", "demo"),
    ],
)
def test_each_program_on_the_machine_of_a_producer_names_the_extra_that_it_needs(
    producer: Environment, command: str, extra: str, tmp_path: Path
) -> None:
    """`pip install penstock-celery` starts none of them."""
    done = producer.run("penstock", *command.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("penstock: ")
    assert done.stderr.endswith(f" is not installed. Try: pip install '{DISTRIBUTION}[{extra}]'\n")


@pytest.mark.timeout(180)
def test_a_worker_that_was_installed_from_the_wheel_answers_a_producer_that_was(
    worker_machine: Environment,
    producer: Environment,
    penstock_simulator: SimulatorProcess,
    tmp_path: Path,
) -> None:
    """`penstock worker streams` outside a checkout, against a private Redis."""
    api = {"ANTHROPIC_BASE_URL": penstock_simulator.url, "ANTHROPIC_API_KEY": "any"}
    with EmbeddedRedis() as server:
        env = {"PENSTOCK_REDIS_URL": server.url}
        worker = worker_machine.start("penstock", "worker", "streams", cwd=tmp_path, env=env | api)
        with worker:
            prompt = '[[sim text="Up."]]'
            answered = producer.run("penstock", "stream", prompt, cwd=tmp_path, env=env)
            worker.terminate()
            written = "".join(worker.communicate())
    assert answered.stdout == "Up.\n", answered.stderr + written
    assert worker.returncode == 0, written


@pytest.mark.timeout(180)
def test_the_demo_runs_from_the_wheel_and_removes_its_files(
    installed: Environment, tmp_path: Path
) -> None:
    """`pip install 'penstock-celery[demo]'`, `penstock demo`: no checkout, no Redis, no key."""
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    done = installed.run(
        "penstock",
        "demo",
        cwd=Path("/"),
        env={"TMPDIR": str(temporary), "HOME": str(home)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [*temporary.iterdir(), *home.iterdir()] == []
    assert running_with(f"TMPDIR={temporary}") == []


def running_with(variable: str) -> list[str]:
    """Return the processes with this variable in their environment (on Linux)."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in environ.read_bytes().split(b"\0"):
                found.append(environ.parent.name)
    return found
