"""Commands that become another program: the workers, Flower, the simulator, the settings.

They replace this process (exec), so that signals and exit codes are the program's own, as with
``celery -A workers.app …`` typed by hand.
"""

import importlib.util
import os
import sys
from typing import NoReturn

import click

from penstock.errors import MissingDependency
from penstock.local.stack import flower_command, python_path, worker_command
from penstock.queue.names import QUEUES

_options = click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]")


@click.command(short_help="Run the Celery worker of one queue.")
@click.argument("queue", type=click.Choice(QUEUES))
@_options
def worker(queue: str, options: tuple[str, ...]) -> None:
    """Run the Celery worker of QUEUE, streams or batches, in the foreground.

    It needs Redis (PENSTOCK_REDIS_URL) and ANTHROPIC_API_KEY; `penstock settings` lists the
    rest. What stands behind -- goes to Celery. Two workers of a queue on one machine need names
    of their own.

    \b
      penstock worker streams
      penstock worker batches
      penstock worker streams -- --hostname second@%h
    """
    require_module("anthropic", "the anthropic SDK", "worker")
    replace_process(worker_command(queue, "--hostname", f"{queue}@%h", *options))


@click.command(short_help="Run Flower, which shows every task in a browser.")
@_options
def flower(options: tuple[str, ...]) -> None:
    """Run Flower in the foreground, on http://127.0.0.1:5555 unless told otherwise.

    What stands behind -- goes to Flower. Whoever reaches it can end tasks: give it a password
    before it listens on more than this machine.

    \b
      penstock flower
      penstock flower -- --port=8080 --address=0.0.0.0 --basic-auth=me:secret
    """
    require_module("flower", "Flower", "worker")
    local = () if "FLOWER_ADDRESS" in os.environ else ("--address=127.0.0.1",)
    replace_process(flower_command(*local, *options))


@click.command(short_help="Run the API's local stand-in.")
@_options
def simulate(options: tuple[str, ...]) -> None:
    """Run the simulator in the foreground: an API that costs nothing, for ANTHROPIC_BASE_URL.

    It prints its address. What stands behind -- goes to the simulator.

    \b
      penstock simulate -- --port 8099
      ANTHROPIC_BASE_URL=http://127.0.0.1:8099 ANTHROPIC_API_KEY=any penstock worker streams
    """
    require_module("uvicorn", "the simulator's server (uvicorn)", "simulator")
    replace_process([sys.executable, "-m", "penstock.simulator", *options])


@click.command(short_help="Every setting: its value, its default, its meaning.")
def settings() -> None:
    """List every setting: the environment variable, its value, its default and its meaning.

    \b
      PENSTOCK_LEASE_MS=3000 penstock settings
    """
    replace_process([sys.executable, "-m", "config"])


def require_module(module: str, what: str, extra: str) -> None:
    """Raise `MissingDependency` if ``module`` is not installed."""
    if importlib.util.find_spec(module) is None:
        raise MissingDependency(what, extra)


def replace_process(command: list[str]) -> NoReturn:
    """Replace this process by ``command``, which finds the application's folders."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Our own program by its absolute path; there is nothing in it for a shell to do.
    os.execve(command[0], command, {**os.environ, **python_path()})  # noqa: S606
