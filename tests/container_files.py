"""Parses docker-compose.yml, the Dockerfile and .dockerignore for the tests."""

import fnmatch
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from penstock.local.stack import SIMULATOR_KEY

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("redis", "worker-streams", "worker-batches", "flower", "simulator")
OURS = tuple(name for name in SERVICES if name != "redis")
#: The variables a user sets before ``docker compose up``, here for the simulator.
USER_ENVIRONMENT = {
    "REDIS_PASSWORD": "for0redis",
    "FLOWER_PASSWORD": "for0flower",
    "ANTHROPIC_API_KEY": SIMULATOR_KEY,
    "ANTHROPIC_BASE_URL": "http://simulator:8000",
}
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


class Missing(Exception):
    """A variable that must be set is not."""


def interpolated(value: Any, env: Mapping[str, str]) -> Any:
    """Substitute variables as Compose does. Raises `Missing` where Compose would fail."""

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if found := env.get(match["name"]):
            return found
        if match["kind"] == "?":
            raise Missing(f"{match['name']}: {match['rest']}")
        return match["rest"] or ""

    if isinstance(value, dict):
        return {key: interpolated(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, env) for item in value]
    return _VARIABLE.sub(fill, value) if isinstance(value, str) else value


def compose() -> dict[str, Any]:
    """Return docker-compose.yml with its anchors resolved."""
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def services() -> dict[str, Any]:
    """Return the services with the user's environment substituted."""
    filled: dict[str, Any] = interpolated(compose()["services"], USER_ENVIRONMENT)
    return filled


def environment_of(service: str) -> dict[str, str]:
    """Return the environment of a service; a bare name passes the user's value on."""
    declared = services()[service].get("environment", {})
    given = {name: USER_ENVIRONMENT.get(name) if v is None else v for name, v in declared.items()}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Instruction:
    """An instruction of the Dockerfile, with continuation lines joined."""

    stage: int
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The value split as a shell would."""
        return shlex.split(self.value)


def dockerfile() -> list[Instruction]:
    """Return the instructions of the Dockerfile; stages are counted from 0."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: list[Instruction] = []
    stage = -1
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        name, _, value = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, value.strip()))
    return found


def in_dockerfile(name: str) -> list[Instruction]:
    return [instruction for instruction in dockerfile() if instruction.name == name]


def copied() -> list[tuple[str, str]]:
    """Return the path in the checkout and the path in the image of each COPY."""
    pairs = [line.words for line in in_dockerfile("COPY") if not line.value.startswith("--from")]
    return [(source, target) for source, target in pairs]


def ignored(path: str) -> bool:
    """Return whether .dockerignore excludes ``path``; the last matching pattern wins."""
    parts = PurePosixPath(path).parts
    prefixes = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    excluded = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        anywhere = pattern.removeprefix("**/")
        tails = prefixes if anywhere == pattern else parts
        if any(fnmatch.fnmatchcase(tail, anywhere) for tail in tails):
            excluded = not line.startswith("!")
    return excluded
