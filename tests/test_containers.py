"""The container files are valid, safe and complete.

The tests use no container engine; `acceptance/test_container_commands.py` runs the services as
plain processes.
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
    """Return the violations of the schema of the Compose Specification."""
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text(encoding="utf-8"))
    errors = jsonschema.Draft7Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def test_the_compose_file_is_valid() -> None:
    """It matches the schema, as written and with its variables substituted."""
    assert problems_with(compose()) == []
    assert problems_with(interpolated(compose(), USER_ENVIRONMENT)) == []
    assert tuple(compose()["services"]) == SERVICES


def test_the_schema_rejects_an_unknown_key() -> None:
    """A misspelled key is an error, not ignored."""
    misspelled = compose()
    misspelled["services"]["flower"]["helthcheck"] = {}
    assert any("helthcheck" in problem for problem in problems_with(misspelled))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_restarts_and_is_monitored_and_limited(name: str) -> None:
    """It has a restart policy, a health check, a log limit and a memory limit."""
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert service["logging"]["options"]["max-size"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    for needed in service.get("depends_on", {}).values():
        assert needed["condition"] == "service_healthy"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_privileges_it_does_not_need(name: str) -> None:
    """No root, no capabilities; only /tmp and the volumes are writable."""
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
def test_no_service_starts_without_the_passwords(password: str) -> None:
    """There is no default password that a user could forget to change."""
    without = {name: value for name, value in USER_ENVIRONMENT.items() if name != password}
    for env in (without, {**without, password: ""}):
        with pytest.raises(Missing, match=password):
            interpolated(compose(), env)


@pytest.mark.parametrize("name", SERVICES)
def test_no_password_is_on_a_command_line(name: str) -> None:
    """Every user of the host can read the command lines of containers."""
    command = " ".join(services()[name]["command"])
    assert not any(
        USER_ENVIRONMENT[each] in command for each in ("REDIS_PASSWORD", "FLOWER_PASSWORD")
    )


def test_only_workers_get_the_api_key() -> None:
    """Flower, Redis and the simulator do not need it."""
    with_key = {name for name in SERVICES if "ANTHROPIC_API_KEY" in environment_of(name)}
    assert with_key == {"worker-streams", "worker-batches"}


@pytest.mark.parametrize("name", ["worker-streams", "worker-batches"])
def test_every_setting_reaches_the_workers(name: str) -> None:
    """A setting in the user's environment or in .env is passed to the containers."""
    passed = compose()["services"][name]["environment"]
    settings = {variable_of(WorkerSettings, field) for field in WorkerSettings.model_fields}
    proxies = {"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    certificates = {"SSL_CERT_FILE", "SSL_CERT_DIR"}
    assert settings | {"ANTHROPIC_AUTH_TOKEN"} | proxies | certificates == set(passed)
    # An empty value would be invalid; without a value the default applies.
    assert {field for field, value in passed.items() if value is not None} == {"PENSTOCK_REDIS_URL"}


def test_containers_run_the_same_commands_as_the_command_line() -> None:
    """`penstock worker streams` and the service `worker-streams` are the same."""
    for queue in ("streams", "batches"):
        command = worker_command(queue, "--hostname", f"{queue}@%h")
        assert services()[f"worker-{queue}"]["command"] == ["python", *command[1:]]
    flower = flower_command("--address=0.0.0.0", "--port=5555")
    assert services()["flower"]["command"] == ["python", *flower[1:]]


def test_the_image_runs_a_stream_worker_by_default() -> None:
    """In the exec form: in the shell form, the shell would not forward the signal."""
    (command,) = in_dockerfile("CMD")
    assert json.loads(command.value) == services()["worker-streams"]["command"]
    assert in_dockerfile("STOPSIGNAL")[0].value == "SIGTERM"
    assert in_dockerfile("ENTRYPOINT") == []


def test_every_file_the_image_needs_is_in_the_build_context() -> None:
    """Every source of a COPY exists and is not ignored; everything else is."""
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
    """The last stage installs only certificates."""
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


def test_the_image_has_the_penstock_command() -> None:
    """The Dockerfile writes the script that pip would have installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["penstock"].partition(":")
    made = next(
        line.value for line in in_dockerfile("RUN") if "/opt/venv/bin/penstock" in line.value
    )
    assert f"'from {module} import {function}' 'sys.exit({function}())'" in " ".join(made.split())


def test_the_python_of_the_image_is_supported() -> None:
    """Both stages use the same version, and the package declares support for it."""
    bases = {line.words[0] for line in in_dockerfile("FROM")}
    (version,) = {re.fullmatch(r"python:(3\.\d+)-slim", base)[1] for base in bases}  # type: ignore[index]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
