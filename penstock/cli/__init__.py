"""The command line; the module of a command is imported when it is used."""

from typing import Final

import click

from penstock import __version__
from penstock.cli.root import RootGroup

#: Section of the help → command → its module and its short help.
COMMANDS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Get started": {
        "demo": (
            "penstock.cli.commands.demo",
            "Run a stream and a batch on this machine, without any setup.",
        ),
        "up": (
            "penstock.cli.commands.up",
            "Run Redis, workers and Flower on this machine until Ctrl-C.",
        ),
    },
    "Streams": {
        "stream": (
            "penstock.cli.commands.stream",
            "Send a prompt and print the answer as it arrives.",
        ),
        "follow": ("penstock.cli.commands.stream", "Print the answer of an existing request."),
        "cancel": (
            "penstock.cli.commands.cancel",
            "Cancel a request or a batch job, keeping its output so far.",
        ),
    },
    "Batches": {
        "batch": (
            "penstock.cli.commands.batch",
            "Run batch jobs, at half the price of live calls.",
        ),
    },
    "Operations": {
        "worker": ("penstock.cli.commands.programs", "Run a Celery worker for one queue."),
        "flower": (
            "penstock.cli.commands.programs",
            "Run Flower, the web UI that shows every task.",
        ),
        "simulate": ("penstock.cli.commands.programs", "Run the API simulator."),
        "settings": (
            "penstock.cli.commands.programs",
            "List all settings with their values and defaults.",
        ),
        "queues": (
            "penstock.cli.commands.queues",
            "Show the length of each queue and its workers.",
        ),
        "doctor": (
            "penstock.cli.commands.doctor",
            "Check the deployment and suggest a fix for each problem.",
        ),
    },
}


#: The commands that use a Redis which other processes have started.
_CLIENTS: Final = ("stream", "follow", "cancel", "batch", "queues", "doctor")


@click.group(
    cls=RootGroup,
    commands_by_section=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: run `penstock demo`. Then run `penstock up --simulate` in one terminal "
    'and `penstock stream "Why is the sky blue?"` in another.',
)
@click.version_option(__version__, message="penstock %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run Claude calls in Celery workers: live streams, and batches at half the price.

    PENSTOCK_REDIS_URL selects the Redis server; without it, commands use the private Redis of your
    own `penstock up`, if that runs. Results are written to stdout, everything else
    to stderr.
    """
    if context.invoked_subcommand in _CLIENTS:
        from penstock.cli.local_redis import use_private_redis

        use_private_redis()


def main() -> None:
    """Run the command in ``sys.argv`` and exit the process."""
    cli(prog_name="penstock")
