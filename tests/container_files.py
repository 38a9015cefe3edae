"""Readers of docker-compose.yml, the Dockerfile and .dockerignore, for the tests of both kinds."""

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
#: What a user sets before ``docker compose up``, here against the simulator.
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
    """``value`` with Compose's variables filled in. Raises `Missing`, where Compose ends."""

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
    """docker-compose.yml as it stands, anchors resolved."""
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def services() -> dict[str, Any]:
    """The services with the user's environment filled in."""
    filled: dict[str, Any] = interpolated(compose()["services"], USER_ENVIRONMENT)
    return filled


def environment_of(service: str) -> dict[str, str]:
    """A service's environment: a name without a value is passed on where the user set it."""
    declared = services()[service].get("environment", {})
    given = {name: USER_ENVIRONMENT.get(name) if v is None else v for name, v in declared.items()}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Instruction:
    """A line of the Dockerfile, continued lines joined."""

    stage: int
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        """The value split as a shell would."""
        return shlex.split(self.value)


def dockerfile() -> list[Instruction]:
    """The Dockerfile's instructions; stages counted from 0."""
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
    """What is copied from the checkout: path in it, and path in the image."""
    pairs = [line.words for line in in_dockerfile("COPY") if not line.value.startswith("--from")]
    return [(source, target) for source, target in pairs]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps ``path`` from the builder: the last pattern that fits decides."""
    parts = PurePosixPath(path).parts
    prefixes = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    verdict = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        anywhere = pattern.removeprefix("**/")
        tails = prefixes if anywhere == pattern else parts
        if any(fnmatch.fnmatchcase(tail, anywhere) for tail in tails):
            verdict = not line.startswith("!")
    return verdict
