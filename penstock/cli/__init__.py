"""The command line. Each command lies in a module of its own, imported when it is used."""

from typing import Final

import click

from penstock import __version__
from penstock.cli.root import RootGroup

#: Section of the help → command → module that holds it, and what it is for.
COMMANDS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Try it": {
        "demo": (
            "penstock.cli.commands.demo",
            "Watch a stream and a batch run, with nothing set up.",
        ),
        "up": ("penstock.cli.commands.up", "Run all of it here, until Ctrl-C."),
    },
    "Streams": {
        "stream": ("penstock.cli.commands.stream", "Ask, and type the answer as it arrives."),
        "follow": (
            "penstock.cli.commands.stream",
            "Type the answer of a request that is under way.",
        ),
        "cancel": (
            "penstock.cli.commands.cancel",
            "End a request or a batch job, keeping what it has.",
        ),
    },
    "Batches": {
        "batch": (
            "penstock.cli.commands.batch",
            "Submit, watch and collect batch jobs, at half price.",
        ),
    },
    "Run and look after it": {
        "worker": ("penstock.cli.commands.programs", "Run the Celery worker of one queue."),
        "flower": (
            "penstock.cli.commands.programs",
            "Run Flower, which shows every task in a browser.",
        ),
        "simulate": ("penstock.cli.commands.programs", "Run the API's local stand-in."),
        "settings": (
            "penstock.cli.commands.programs",
            "Every setting: its value, its default, its meaning.",
        ),
        "doctor": (
            "penstock.cli.commands.doctor",
            "Find out what is wrong, and what to do about it.",
        ),
    },
}


@click.group(
    cls=RootGroup,
    commands_by_section=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: `penstock demo`. Then `penstock up --simulate` in one terminal, and "
    '`penstock stream "Why is the sky blue?"` in another.',
)
@click.version_option(__version__, message="penstock %(version)s")
def cli() -> None:
    """Claude calls through a queue: live streams, and message batches at half price.

    Redis is found by PENSTOCK_REDIS_URL. Answers go to stdout, everything else to stderr.
    """


def main() -> None:
    """Run the command that ``sys.argv`` names, and end the process."""
    cli(prog_name="penstock")
