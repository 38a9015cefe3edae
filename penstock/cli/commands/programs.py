"""Commands that run another program: workers, Flower, simulator, settings.

The program replaces this process (exec), so that signals and exit codes are its own, exactly as
if ``celery -A workers.app`` had been started directly.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from penstock.cli.command_error import CommandError
from penstock.cli.text.output import print_status
from penstock.errors import MissingDependency
from penstock.local.flower_access import (
    FLOWER_USER,
    busy_address,
    flower_environment,
    given_options,
    new_password,
)
from penstock.local.stack import flower_command, python_path, worker_command
from penstock.queue.names import QUEUES

_options = click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]")


@click.command(short_help="Run a Celery worker for one queue.")
@click.argument("queue", type=click.Choice(QUEUES))
@_options
def worker(queue: str, options: tuple[str, ...]) -> None:
    """Run a Celery worker for one queue, streams or batches, in the foreground.

    Requires Redis (PENSTOCK_REDIS_URL) and ANTHROPIC_API_KEY; `penstock settings` lists all
    settings. Options after -- are passed to Celery. Two workers for the same queue on one
    machine need different node names (--hostname).

    \b
      penstock worker streams
      penstock worker batches
      penstock worker streams -- --hostname second@%h
    """
    require_module("anthropic", "the anthropic SDK", "worker")
    refuse_greenlets(options)
    replace_process(worker_command(queue, "--hostname", f"{queue}@%h", *options))


@click.command(short_help="Run Flower, the web UI that shows every task.")
@_options
def flower(options: tuple[str, ...]) -> None:
    """Run Flower in the foreground, by default on http://127.0.0.1:5555.

    Prints the user and a password, which is generated for each start; --basic-auth or
    FLOWER_BASIC_AUTH sets another one. Anyone who has it can run and terminate tasks. Options after
    -- are passed to Flower.

    \b
      penstock flower
      penstock flower -- --port=8080 --address=0.0.0.0 --basic-auth=me:secret
    """
    require_module("flower", "Flower", "worker")
    local = () if "FLOWER_ADDRESS" in os.environ else ("--address=127.0.0.1",)
    given = given_options([*local, *options], os.environ)
    if busy := busy_address(given):
        raise CommandError(
            f"{busy} is in use, perhaps by another Flower; to use another port: "
            "penstock flower -- --port=5556"
        )
    added = flower_environment(given, password := new_password())
    if "FLOWER_BASIC_AUTH" in added:
        print_status(f"Flower: user {FLOWER_USER}, password {password}")
    replace_process(flower_command(*local, *options), added)


@click.command(short_help="Run the API simulator.")
@_options
def simulate(options: tuple[str, ...]) -> None:
    """Run the API simulator in the foreground.

    Prints its address, which the workers need as ANTHROPIC_BASE_URL. The simulator costs nothing
    and accepts every API key except `invalid`. Options after -- are passed to the simulator. Every
    answer begins with "[simulated]"; --mark 0 leaves that out.

    \b
      penstock simulate -- --port 8099
      ANTHROPIC_BASE_URL=http://127.0.0.1:8099 ANTHROPIC_API_KEY=any penstock worker streams
    """
    require_module("uvicorn", "the simulator's web server (uvicorn)", "simulator")
    replace_process([sys.executable, "-m", "penstock.simulator", "--mark", "1", *options])


@click.command(short_help="List all settings with their values and defaults.")
def settings() -> None:
    """List all settings: environment variable, value, default and description.

    \b
      PENSTOCK_LEASE_MS=3000 penstock settings
    """
    replace_process([sys.executable, "-m", "config"])


def refuse_greenlets(options: Sequence[str]) -> None:
    """Raise `CommandError` for a pool that Celery imports before the worker checks its options."""
    for given, value in zip(options, (*options[1:], ""), strict=False):
        pool = value if given in ("-P", "--pool") else given.removeprefix("--pool=")
        if pool.removeprefix("-P") in ("gevent", "eventlet"):
            raise CommandError(
                f"--pool: {pool.removeprefix('-P')} cannot be used: only the default pool hands "
                "streams over when it stops"
            )


def require_module(module: str, description: str, extra: str) -> None:
    """Raise `MissingDependency`, naming ``extra``, if ``module`` is not installed."""
    if importlib.util.find_spec(module) is None:
        raise MissingDependency(description, extra)


def replace_process(command: list[str], env: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process with ``command``, with the application on its PYTHONPATH.

    ``env`` is added to the environment.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # An absolute path to our own program; no shell is involved.
    os.execve(command[0], command, {**os.environ, **(env or {}), **python_path()})  # noqa: S606
