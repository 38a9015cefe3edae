"""Plants small faults in the core modules and lists those that no test notices.

``python -m tests.mutants.run --sample 100 --seed 1`` works in a copy of the tree, one fault at a
time. For each it runs the unit and contract tests that mirror the module. A fault that they do not
notice *survives*: it is printed with its place, and asks for a test, or changes nothing that
matters. In a module that only other tests reach, such as the acceptance tests, it is *untested*.
A run is a search, so its exit code is 0 whatever it finds.
"""

import argparse
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from tests.mutants.lua_faults import lua_faults
from tests.mutants.modules import core_modules, mirrored_tests
from tests.mutants.python_faults import Fault, python_faults

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = (
    *("penstock", "config", "tasks", "workers", "tests", "benchmarks", "docs"),
    "pyproject.toml",
)

#: A fault may make an endless loop, which ends after this, or after it has filled this memory.
MIN_LIMIT_S: Final = 20.0
LIMIT_FACTOR: Final = 3.0
MEMORY_BYTES: Final = 4 * 1024**3

PYTEST: Final = (
    *(sys.executable, "-m", "pytest", "-x", "-q", "--hypothesis-seed=0"),
    *("-p", "tests.mutants.without_shrinking", "-p", "no:xdist", "-p", "no:cacheprovider"),
)


class Mutant(NamedTuple):
    """A module and the fault that it gets."""

    module: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.module}:{self.fault.line}  {self.fault.what}"


class Copy:
    """A copy of the tree, in which one module at a time has a fault."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tests = [
            str(path.relative_to(root))
            for kind in ("unit", "contract")  # the faster ones first
            for path in sorted((root / "tests" / kind).rglob("test_*.py"))
        ]
        self._limits: dict[tuple[str, ...], float] = {}

    def mutants(self, pattern: str) -> list[Mutant]:
        """Every fault of every core module whose path contains ``pattern``."""
        found = []
        for module in core_modules(self.root):
            source = (self.root / module).read_text(encoding="utf-8")
            faults = lua_faults(source) if module.endswith(".lua") else python_faults(source)
            found += [Mutant(module, fault) for fault in faults if pattern in module]
        return found

    def fate(self, mutant: Mutant) -> str:
        """``killed`` if a test fails, or does not end, when the module has the fault."""
        groups = mirrored_tests(mutant.module, self.tests, self.root)
        if not groups:
            return "untested"
        limits = [self._limit_s(group) for group in groups]
        with self._with(mutant):
            passes = all(
                self._passes(group, limit) for group, limit in zip(groups, limits, strict=True)
            )
        return "SURVIVED" if passes else "killed"

    def _limit_s(self, group: list[str]) -> float:
        """How long these tests may take. Raises `SystemExit` if they fail without a fault."""
        if tuple(group) not in self._limits:
            began = time.monotonic()
            if not self._passes(group, 600.0):
                sys.exit(f"these tests fail without any fault: {' '.join(group)}")
            took = time.monotonic() - began
            self._limits[tuple(group)] = max(MIN_LIMIT_S, LIMIT_FACTOR * took)
        return self._limits[tuple(group)]

    @contextlib.contextmanager
    def _with(self, mutant: Mutant) -> Iterator[None]:
        path = self.root / mutant.module
        source = path.read_text(encoding="utf-8")
        _replace(path, mutant.fault.source)
        try:
            yield
        finally:
            _replace(path, source)

    def _passes(self, group: list[str], limit_s: float) -> bool:
        process = subprocess.Popen(
            [*PYTEST, *group],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_limit_memory,
        )
        try:
            return process.wait(limit_s) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _replace(path: Path, source: str) -> None:
    """Write a module; Python compares only its size and the second of its change with its cache."""
    path.write_text(source, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


@contextlib.contextmanager
def copied_tree() -> Iterator[Copy]:
    """Copy what the tests need to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="penstock-mutants-") as folder:
        for name in COPIED:
            source, target = ROOT / name, Path(folder, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yield Copy(Path(folder))


def main() -> None:
    """Plant the faults and report them."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--sample", type=int, default=100, help="number of faults; 0: all")
    parser.add_argument("--seed", type=int, default=1, help="which faults are in the sample")
    parser.add_argument("--only", default="", help="part of the paths of the modules")
    options = parser.parse_args()
    killed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    with copied_tree() as copy:
        mutants = copy.mutants(options.only)
        if 0 < options.sample < len(mutants):
            mutants = Random(options.seed).sample(mutants, options.sample)
        for mutant in sorted(mutants, key=lambda each: (each.module, each.fault.line)):
            fate = copy.fate(mutant)
            tried[mutant.module] += 1
            killed[mutant.module] += fate == "killed"
            print(f"{fate:<8}  {mutant}", flush=True)  # noqa: T201
    for module, count in sorted(tried.items()):
        print(f"{killed[module]:>4} of {count:>4} killed  {module}")  # noqa: T201
    print(f"{killed.total():>4} of {tried.total():>4} killed, seed {options.seed}")  # noqa: T201


if __name__ == "__main__":
    main()
