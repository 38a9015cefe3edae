"""``penstock up``: a complete deployment on this machine, in the foreground."""

import os
import socket

import click

from penstock.cli.command_error import CommandError
from penstock.cli.commands.programs import require_module
from penstock.cli.local_deployment import LocalDeployment, exit_on_signals
from penstock.cli.text.output import print_line, print_status
from penstock.settings import ClientSettings
from penstock.store.connection import connect, redis_errors_translated

#: The default ports of Redis and Flower, used if they are free.
REDIS_PORT, FLOWER_PORT = 6379, 5555


@click.command(short_help="Run Redis, workers and Flower on this machine until Ctrl-C.")
@click.option("--simulate", is_flag=True, help="Use the API simulator: no API key, no cost.")
def up(simulate: bool) -> None:
    """Run Redis, both workers and Flower on this machine until Ctrl-C.

    Uses the Redis in PENSTOCK_REDIS_URL, if that is set. Otherwise starts a private Redis, whose
    data is deleted on exit. The workers need ANTHROPIC_API_KEY, unless --simulate is given.

    \b
      penstock up --simulate
      penstock stream "Why is the sky blue?"     (in another terminal)
    """
    if not simulate:
        require_key("penstock up --simulate")
    redis_url = _redis_from_environment()
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
        if redis_url is None:
            print_status("In other terminals, run:")
            print_line(f"export PENSTOCK_REDIS_URL={deployment.redis_url}")
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


def _redis_from_environment() -> str | None:
    """Return PENSTOCK_REDIS_URL, after a PING to that server, or None if it is unset."""
    if not os.environ.get("PENSTOCK_REDIS_URL"):
        return None
    settings = ClientSettings.load()
    connection = connect(settings)
    with redis_errors_translated(settings):
        connection.ping()
    connection.close()
    return settings.redis_url.get_secret_value()


def _port_if_free(port: int) -> int | None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
    return port
