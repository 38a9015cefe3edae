"""``penstock up``: a complete deployment on this machine, in the foreground."""

import os
import socket
from collections.abc import Sequence
from contextlib import closing

import click

from penstock.cli.command_error import CommandError
from penstock.cli.commands.programs import require_module
from penstock.cli.local_deployment import (
    LocalDeployment,
    connection_help,
    exit_on_signals,
    forget_other_redis,
    variables,
)
from penstock.cli.text.output import print_line, print_status
from penstock.local.redis_url_file import published
from penstock.queue.consumers import SIMULATED, find_consumers
from penstock.settings import ClientSettings
from penstock.store.connection import connect, redis_address, redis_errors_translated

#: The default ports of Redis and Flower, used if they are free.
REDIS_PORT, FLOWER_PORT = 6379, 5555


@click.command(short_help="Run Redis, workers and Flower on this machine until Ctrl-C.")
@click.option("--simulate", is_flag=True, help="Use the API simulator: no API key, no cost.")
@click.option("--redis-url", metavar="URL", help="Use this Redis instead of a private one.")
def up(simulate: bool, redis_url: str | None) -> None:
    """Run Redis, both workers and Flower on this machine until Ctrl-C.

    Uses the Redis in PENSTOCK_REDIS_URL, if that is set. Otherwise starts a private Redis, whose
    data is deleted on exit. The workers need ANTHROPIC_API_KEY, unless --simulate is given.

    With --simulate, every answer is invented and marked as simulated. So that it never answers the
    requests of a real deployment by mistake, --simulate uses another Redis than a private one only
    if --redis-url names it.

    \b
      penstock up --simulate
      penstock stream "Why is the sky blue?"     (in another terminal)
    """
    if not simulate:
        require_key("penstock up --simulate")
    redis_url = _existing_redis(redis_url, simulate=simulate)
    with (
        exit_on_signals(),
        LocalDeployment(
            print_status,
            redis_url=redis_url,
            redis_port=_port_if_free(REDIS_PORT),
            simulate=simulate,
            # Poll more often than for the real API: the simulator ends a batch within seconds.
            env={
                "PENSTOCK_POLL_INTERVAL_MIN_S": os.environ.get("PENSTOCK_POLL_INTERVAL_MIN_S", "1")
            }
            if simulate
            else None,
            flower_port=_port_if_free(FLOWER_PORT),
        ) as deployment,
    ):
        print_status("\nReady. Press Ctrl-C to stop everything.")
        if redis_url is not None:
            deployment.run_forever()
        with published(deployment.redis_url):
            print_status("`penstock` finds this Redis itself. For other programs, and redis-cli:")
            for line in connection_help(deployment.redis_url):
                print_line(line)
            deployment.run_forever()


def require_key(alternative: str) -> None:
    """Raise `CommandError` if there is no API key; it names a command that needs none."""
    if any(os.environ.get(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")):
        return
    require_module("anthropic", "the anthropic SDK", "demo")
    import anthropic  # slow to import, and not needed if a key is set

    sdk = anthropic.Anthropic(max_retries=0)
    if sdk.api_key is None and sdk.auth_token is None and sdk.credentials is None:
        raise CommandError(f"ANTHROPIC_API_KEY is not set; to run without a key: {alternative}")


def _existing_redis(named: str | None, *, simulate: bool) -> str | None:
    """Return the URL of the Redis to use, after a PING; None for a private one.

    Raises `CommandError` if it is not certain that the user wants these workers there.
    """
    if named is None and not variables("PENSTOCK_REDIS_URL"):
        return None
    settings = ClientSettings.load(**({} if named is None else {"redis_url": named}))
    if simulate and named is None:
        raise CommandError(
            f"PENSTOCK_REDIS_URL is set ({redis_address(settings)}), and --simulate would answer "
            "the requests in its queues with invented text. Unset it to use a private Redis, or "
            "name the server: penstock up --simulate --redis-url URL"
        )
    with closing(connect(settings)) as connection, redis_errors_translated(settings):
        connection.ping()
    forget_other_redis()
    found = find_consumers(settings)
    check_other_workers(sorted(set().union(*found.values())), simulate=simulate)
    return settings.redis_url.get_secret_value()


def check_other_workers(others: Sequence[str], *, simulate: bool) -> None:
    """Raise `CommandError` if real and simulated workers would share a queue.

    ``others``: node names of the workers that consume the queues already.
    """
    mixed = [name for name in others if name.startswith(SIMULATED) != simulate]
    if not mixed:
        return
    kinds = ("with the API", "with invented text")
    theirs, ours = kinds if simulate else kinds[::-1]
    raise CommandError(
        f"workers on this Redis already answer {theirs} ({', '.join(mixed)}), and these would "
        f"answer {ours}: stop the others, or use another Redis"
    )


def _port_if_free(port: int) -> int | None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
    return port
