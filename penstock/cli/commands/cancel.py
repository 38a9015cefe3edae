"""``penstock cancel``: end a request or a batch job."""

import click

from penstock.cli.text.output import print_status
from penstock.client import Client


@click.command(short_help="End a request or a batch job, keeping what it has.")
@click.argument("id")
def cancel(id: str) -> None:
    """Ask for request or batch job ID to be canceled.

    What has been received by then is kept and can still be read. It costs what has been used
    up to then.

    \b
      penstock cancel 0198c1d2-…
    """
    with Client() as client:
        record = client.messages.request(id).record()
        if record.state.ended:
            print_status(f"{id} had ended already: {record.state}")
        elif record.fields.get("kind") == "batch":
            client.messages.batches.cancel(id, who="command line")
            print_status(f"{id} is being canceled (penstock batch watch {id})")
        else:
            client.messages.request(id).cancel("command line")
            print_status(f"{id} is being canceled (penstock follow {id})")
