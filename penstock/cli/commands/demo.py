"""``penstock demo``: a tour of Penstock on this machine, without any setup."""

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from penstock.cli.commands.up import require_key
from penstock.cli.demo_steps import QUESTION, DemoSteps
from penstock.cli.local_deployment import LocalDeployment, connection_help, exit_on_signals, login
from penstock.cli.text.output import print_line
from penstock.client import Client
from penstock.errors import PenstockError
from penstock.local.redis_url_file import published

#: Upper bound for 3 batch requests and 2 streams of a few hundred tokens each on Claude Haiku 4.5.
LIVE_COST = "less than one US cent"


@click.command(short_help="Run a stream and a batch on this machine, without any setup.")
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
@click.option("--live", is_flag=True, help="Use the real API; requires ANTHROPIC_API_KEY.")
def demo(keep: bool, live: bool) -> None:
    """Run Penstock on this machine for half a minute and show what it does.

    Starts a private Redis, the API simulator, both workers and Flower on free local ports. Then
    shows a streamed answer, the events of a tool call, a batch job, and the tasks in Flower.
    Stops all processes and removes their files at the end.

    \b
      penstock demo
      penstock demo --keep
    """
    if live:
        require_key("penstock demo")
        click.echo(
            f"This uses the real API and costs {LIVE_COST}. "
            "The batch of 3 requests may take several minutes.\n"
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
            _run_steps(deployment, DemoSteps(client, deployment.flower.tasks, live=live))
            if keep:
                with published(deployment.redis_url):
                    print_line(_instructions(deployment))
                    deployment.run_forever()
        print_line("\nStopped all processes and removed their files.")
        print_line(f"Next: {command_name()} demo --keep, {command_name()} --help")


def _run_steps(deployment: LocalDeployment, steps: DemoSteps) -> None:
    """Run the steps; if one fails because a process has exited, report that process."""
    try:
        deployment.flower.wait_for_workers(2)  # Flower shows no task that ran before
        steps.run()
    except (PenstockError, TimeoutError):
        deployment.raise_if_exited()
        raise


def command_name() -> str:
    """Return the shortest command with which the user can run this program again."""
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
        "PENSTOCK_POLL_INTERVAL_MIN_S": "2" if live else "0.5",
    }


def _instructions(deployment: LocalDeployment) -> str:
    penstock = command_name()
    return "\n".join(
        (
            "\nEverything keeps running until Ctrl-C. In another terminal, run:",
            *(f"  {line}" for line in connection_help(deployment.redis_url)),
            f'  {penstock} stream "{QUESTION}"',
            f"  {penstock} batch list",
            f"  {penstock} doctor",
            f"  redis-cli -p {urlsplit(deployment.redis_url).port} psubscribe 'penstock:*:events'",
            f"In a browser: {login(deployment.flower)}",
        )
    )
