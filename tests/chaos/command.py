"""Shared by the chaos commands: command-line options and the report of a run."""

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos.world import World

Options = TypeVar("Options", bound=Any)


def say(line: str) -> None:
    """Print a line and flush."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def options_of(defaults: Options, module: str, description: str | None) -> Options:
    """Return the options of the command line; a seed of 0 becomes the current time."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    for each in fields(defaults):
        default = getattr(defaults, each.name)
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=type(default), default=default)
    asked = vars(parser.parse_args())
    asked["seed"] = asked["seed"] or int(time.time())
    options: Options = replace(defaults, **asked)
    say(str(options))
    return options


def report(faults: Iterable[str], seed: int, success: str) -> int:
    """Print the faults, or ``success`` if there are none; returns the exit code."""
    found = list(faults)
    for fault in found:
        say(f"WRONG {fault}")
    say(f"seed {seed}: {'WRONG' if found else success}")
    return 1 if found else 0


def keep_logs(world: World, folder: str) -> None:
    """Copy the workers' logs to a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for worker in [*world.workers, *world.coming]:
        target = Path(folder) / f"{worker.name}.log"
        target.write_text(worker.log.read_text(errors="replace"))
