"""``penstock up``: all of Penstock on this machine, in the foreground."""

import os
import socket

import click

from penstock.cli.command_error import CommandError
from penstock.cli.commands.programs import require_module
from penstock.cli.local_deployment import LocalDeployment, exit_on_signals
from penstock.cli.text.output import print_line, print_status
from penstock.settings import ClientSettings
from penstock.store.connection import connect, redis_errors_translated

#: Where a Redis and a Flower are looked for by default; taken if they are free.
REDIS_PORT, FLOWER_PORT = 6379, 5555


@click.command(short_help="Run all of it here, until Ctrl-C.")
@click.option("--simulate", is_flag=True, help="Use the simulator; no key, no costs.")
def up(simulate: bool) -> None:
    """Run Redis, both workers and Flower on this machine until Ctrl-C.

    With PENSTOCK_REDIS_URL that Redis is used; without it a private one is started, whose data
    is gone when this ends. The workers need ANTHROPIC_API_KEY, unless --simulate.

    \b
      penstock up --simulate
      penstock stream "Why is the sky blue?"     (in another terminal)
    """
    if not simulate:
        require_key("penstock up --simulate")
    redis_url = _given_redis()
    with (
        exit_on_signals(),
        LocalDeployment(
            print_status,
            redis_url=redis_url,
            redis_port=_port_if_free(REDIS_PORT),
            simulate=simulate,
            # The simulator's batches end within seconds: look sooner than the real API needs.
            env={
                "PENSTOCK_POLL_INTERVAL_MIN_S": os.environ.get("PENSTOCK_POLL_INTERVAL_MIN_S", "1")
            }
            if simulate
            else None,
            flower_port=_port_if_free(FLOWER_PORT),
        ) as deployment,
    ):
        print_status("\nReady. Ctrl-C ends everything.")
        if redis_url is None:
            print_status("For other terminals:")
            print_line(f"export PENSTOCK_REDIS_URL={deployment.redis_url}")
        deployment.run_forever()


def require_key(otherwise: str) -> None:
    """Raise `CommandError` where the real API cannot be used; ``otherwise`` works without a key."""
    if any(os.environ.get(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")):
        return
    require_module("anthropic", "the anthropic SDK", "demo")
    import anthropic  # slow, and needed by those alone who have set no key

    sdk = anthropic.Anthropic(max_retries=0)
    if sdk.api_key is None and sdk.auth_token is None and sdk.credentials is None:
        raise CommandError(f"ANTHROPIC_API_KEY is not set. Without a key try: {otherwise}")


def _given_redis() -> str | None:
    """The Redis that the environment names, once it has answered."""
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
