"""``penstock demo``: the four things worth seeing, on a machine where nothing is set up."""

import os
import shutil
import sys
from pathlib import Path

import click

from penstock.cli.commands.up import require_key
from penstock.cli.demo_steps import QUESTION, DemoSteps
from penstock.cli.local_deployment import LocalDeployment, exit_on_signals
from penstock.cli.text.output import print_line
from penstock.client import Client
from penstock.errors import PenstockError

#: At most: 3 batch requests and 2 streams of some hundred tokens each, with Claude Haiku 4.5.
LIVE_COST = "less than one US cent"


@click.command(short_help="Watch a stream and a batch run, with nothing set up.")
@click.option("--keep", is_flag=True, help="Leave all running afterwards, until Ctrl-C.")
@click.option("--live", is_flag=True, help="Use the real API, with ANTHROPIC_API_KEY.")
def demo(keep: bool, live: bool) -> None:
    """Run all of Penstock here for half a minute, and show what it does.

    A private Redis, the simulator, both workers and Flower are started on free ports of
    this machine; then come a streamed answer, a tool call event by event, a batch, and what
    Flower has seen. Everything is ended and removed afterwards.

    \b
      penstock demo
      penstock demo --keep
    """
    if live:
        require_key("penstock demo")
        click.echo(
            f"This uses the real API and costs {LIVE_COST}. Its batch of 3 may take minutes.\n"
        )
    with exit_on_signals():
        with (
            LocalDeployment(
                print_line,
                simulate=not live,
                simulator_options=("--batch-seconds", "4"),
                env=_environment(live),
            ) as deployment,
            Client(deployment.redis_url) as client,
        ):
            _run_steps(deployment, DemoSteps(client, deployment.flower.url, live=live))
            if keep:
                print_line(_instructions(deployment))
                deployment.run_forever()
        print_line("\nEverything has been ended; nothing is left behind.")
        print_line(f"More: {command_name()} demo --keep, {command_name()} --help")


def _run_steps(deployment: LocalDeployment, steps: DemoSteps) -> None:
    """Run the show; where nothing comes any more, tell which part has died."""
    try:
        deployment.flower.wait_for_workers(2)  # it shows nothing that ran before
        steps.run()
    except (PenstockError, TimeoutError):
        deployment.raise_if_exited()
        raise


def command_name() -> str:
    """How the user can call this program again."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{sys.executable} -m penstock.cli"
    on_path = shutil.which("penstock")
    if on_path and os.path.samefile(on_path, called):
        return "penstock"
    if not called.exists():
        return "penstock"
    return min(os.path.relpath(called), str(called.absolute()), key=len)


def _environment(live: bool) -> dict[str, str]:
    return {
        # Only this machine's Flower, and only as long as the demo runs: step 4 asks it.
        "FLOWER_UNAUTHENTICATED_API": "true",
        "PENSTOCK_POLL_INTERVAL_MIN_S": "2" if live else "0.5",
    }


def _instructions(deployment: LocalDeployment) -> str:
    penstock = command_name()
    return "\n".join(
        (
            "\nAll of it keeps running until Ctrl-C. In another terminal:",
            f"  export PENSTOCK_REDIS_URL={deployment.redis_url}",
            f'  {penstock} stream "{QUESTION}"',
            f"  {penstock} batch list",
            f"  {penstock} doctor",
            f"  redis-cli -u {deployment.redis_url} psubscribe 'penstock:*:events'",
            f"In a browser: {deployment.flower.url}",
        )
    )
