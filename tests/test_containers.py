"""The container files: valid, safe, complete, and the same commands as without containers.

There is no container engine in the tests; `acceptance/test_container_commands.py` runs what would
run in containers as plain processes.
"""

import json
import re
import tomllib
from typing import Any

import jsonschema
import pytest

from config.settings import WorkerSettings
from penstock.local.stack import flower_command, worker_command
from penstock.settings import variable_of
from tests.container_files import (
    ROOT,
    SERVICES,
    USER_ENVIRONMENT,
    Missing,
    compose,
    copied,
    dockerfile,
    environment_of,
    ignored,
    in_dockerfile,
    interpolated,
    services,
)


def problems_with(document: Any) -> list[str]:
    """What the Compose Specification's schema has against a file."""
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text(encoding="utf-8"))
    errors = jsonschema.Draft7Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def test_the_compose_file_is_valid() -> None:
    """By the schema, as written and with the variables filled in."""
    assert problems_with(compose()) == []
    assert problems_with(interpolated(compose(), USER_ENVIRONMENT)) == []
    assert tuple(compose()["services"]) == SERVICES


def test_the_schema_notices_a_mistake() -> None:
    """A misspelt key would be ignored by nobody."""
    broken = compose()
    broken["services"]["flower"]["helthcheck"] = {}
    assert any("helthcheck" in problem for problem in problems_with(broken))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_comes_back_and_is_looked_after(name: str) -> None:
    """It restarts, says whether it is well, keeps its log short and has a limit on memory."""
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert service["logging"]["options"]["max-size"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    for needed in service.get("depends_on", {}).values():
        assert needed["condition"] == "service_healthy"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_rights_it_does_not_need(name: str) -> None:
    """Not root, no capabilities, no way to get any, nothing to write but /tmp and volumes."""
    service = services()[name]
    (user,) = [line.value for line in in_dockerfile("USER")]
    assert str(service.get("user") or user).partition(":")[0] not in {"", "0", "root"}
    assert ("user" in service) == ("build" not in service)
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["init"] is True
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("password", ["FLOWER_PASSWORD", "REDIS_PASSWORD"])
def test_nothing_starts_without_a_password(password: str) -> None:
    """There is no default that somebody could forget to change."""
    without = {name: value for name, value in USER_ENVIRONMENT.items() if name != password}
    for env in (without, {**without, password: ""}):
        with pytest.raises(Missing, match=password):
            interpolated(compose(), env)


def test_only_workers_get_the_key() -> None:
    """Flower, Redis and the simulator have no use for it."""
    with_key = {name for name in SERVICES if "ANTHROPIC_API_KEY" in environment_of(name)}
    assert with_key == {"worker-streams", "worker-batches"}


@pytest.mark.parametrize("name", ["worker-streams", "worker-batches"])
def test_every_setting_reaches_the_workers(name: str) -> None:
    """PENSTOCK_… in the user's environment or .env means something in containers too."""
    passed = compose()["services"][name]["environment"]
    settings = {variable_of(WorkerSettings, field) for field in WorkerSettings.model_fields}
    assert settings | {"ANTHROPIC_AUTH_TOKEN"} == set(passed)
    # An empty value would be a wrong one; no value at all leaves the default.
    assert {field for field, value in passed.items() if value is not None} == {"PENSTOCK_REDIS_URL"}


def test_containers_run_the_same_commands_as_the_command_line() -> None:
    """`penstock worker streams` and the service `worker-streams` are one thing."""
    for queue in ("streams", "batches"):
        command = worker_command(queue, "--hostname", f"{queue}@%h")
        assert services()[f"worker-{queue}"]["command"] == ["python", *command[1:]]
    flower = flower_command("--address=0.0.0.0", "--port=5555")
    assert services()["flower"]["command"] == ["python", *flower[1:]]


def test_the_image_is_a_streams_worker_unless_told_otherwise() -> None:
    """In the exec form: in the other one a shell would take the signal and keep it."""
    (command,) = in_dockerfile("CMD")
    assert json.loads(command.value) == services()["worker-streams"]["command"]
    assert in_dockerfile("STOPSIGNAL")[0].value == "SIGTERM"
    assert in_dockerfile("ENTRYPOINT") == []


def test_everything_the_image_is_made_of_is_there() -> None:
    """Every source of a COPY exists and gets past .dockerignore, and nothing else does."""
    sources = [source for source, _ in copied()]
    assert sources == ["requirements-worker.txt", "penstock", "config", "tasks", "workers"]
    files = [path for source in sources for path in [ROOT / source, *(ROOT / source).rglob("*.*")]]
    kept = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert [path for path in kept if ignored(path)] == []
    others = {path.name for path in ROOT.iterdir()} - set(sources)
    private = {".env", ".git/config", ".venv/bin/python", "tests/test_x.py", "penstock.env"}
    litter = {"penstock/__pycache__/x.pyc", "tasks/__pycache__", "config/old.pyc"}
    assert [path for path in others | private | litter if not ignored(path)] == []


def test_every_stage_of_the_image_is_used() -> None:
    """And the last one installs nothing but certificates."""
    names = re.findall(r" AS (\w+)", " ".join(line.value for line in in_dockerfile("FROM")))
    used = re.findall(r"--from=(\w+)", " ".join(line.value for line in in_dockerfile("COPY")))
    assert names == ["build"]
    assert set(used) == set(names)
    last = dockerfile()[-1].stage
    runs = " ".join(line.value for line in in_dockerfile("RUN") if line.stage == last)
    assert [found.split() for found in re.findall(r"install ([^&]*)", runs)] == [
        ["--yes", "--no-install-recommends", "ca-certificates"]
    ]
    pip = next(line.value for line in in_dockerfile("RUN") if "pip" in line.value)
    assert {"--require-hashes", "--only-binary"} <= set(pip.split())


def test_the_image_has_the_command_line_too() -> None:
    """The image is not built by pip, so it makes the program that pip would have made."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["penstock"].partition(":")
    made = next(
        line.value for line in in_dockerfile("RUN") if "/opt/venv/bin/penstock" in line.value
    )
    assert f"'from {module} import {function}' 'sys.exit({function}())'" in " ".join(made.split())


def test_the_pythons_are_ones_that_we_support() -> None:
    """Both stages have the same one, and the package says that it runs on it."""
    bases = {line.words[0] for line in in_dockerfile("FROM")}
    (version,) = {re.fullmatch(r"python:(3\.\d+)-slim", base)[1] for base in bases}  # type: ignore[index]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
