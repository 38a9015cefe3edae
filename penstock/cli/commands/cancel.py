"""``penstock cancel``: cancel a request or a batch job."""

import click

from penstock.cli.text.output import print_status
from penstock.client import Client


@click.command(short_help="Cancel a request or a batch job, keeping its output so far.")
@click.argument("id")
def cancel(id: str) -> None:
    """Cancel request or batch job ID.

    A worker cancels it shortly afterwards. Output received until then is kept and can still be
    read; tokens used until then are billed.

    \b
      penstock cancel 01a2069e-6cb7-7b7e-bef3-32eebfc03309
    """
    with Client() as client:
        record = client.messages.request(id).record()
        if record.state.ended:
            print_status(f"{id} has already ended: {record.state}")
        elif record.fields.get("kind") == "batch":
            client.messages.batches.cancel(id, who="command line")
            print_status(f"canceling {id}; to watch the job: penstock batch watch {id}")
        else:
            client.messages.request(id).cancel("command line")
            print_status(f"canceling {id}; to follow the request: penstock follow {id}")
