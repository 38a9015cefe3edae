"""``penstock cancel``: cancel a request, a batch job, or all requests that wait."""

from contextlib import closing

import click

from penstock.cli.command_error import CommandError
from penstock.cli.text.output import print_status, quantity
from penstock.client import Client
from penstock.settings import ClientSettings
from penstock.store.connection import connect, redis_errors_translated
from penstock.streams.records import RequestRecords

WHO = "command line"


@click.command(short_help="Cancel a request or a batch job, keeping its output so far.")
@click.argument("id", required=False)
@click.option("--queued", is_flag=True, help="Cancel all requests that no worker has claimed.")
@click.option("--yes", is_flag=True, help="Confirm --queued; without it, only the number is shown.")
def cancel(id: str | None, queued: bool, yes: bool) -> None:
    """Cancel request or batch job ID, or all requests that wait.

    A worker cancels a running request or a job shortly afterwards. Output received until then is
    kept and can still be read; tokens used until then are billed.

    With --queued, each request that waits in the queue ends as canceled at once: also one that
    waits for a rate limit or after an error. Running requests and batch jobs are left unchanged.

    \b
      penstock cancel 01a2069e-6cb7-7b7e-bef3-32eebfc03309
      penstock cancel --queued
      penstock cancel --queued --yes
    """
    if queued == bool(id):
        raise click.UsageError("Give either the ID of a request or job, or --queued.")
    if id:
        cancel_one(id)
    else:
        cancel_queued(confirmed=yes)


def cancel_one(id: str) -> None:
    """Cancel a request or a batch job, and print what to do next."""
    with Client() as client:
        record = client.messages.request(id).record()
        if record.state.ended:
            print_status(f"{id} has already ended: {record.state}")
        elif record.fields.get("kind") == "batch":
            client.messages.batches.cancel(id, who=WHO)
            print_status(f"canceling {id}; to watch the job: penstock batch watch {id}")
        else:
            client.messages.request(id).cancel(WHO)
            print_status(f"canceling {id}; to follow the request: penstock follow {id}")


def cancel_queued(*, confirmed: bool) -> None:
    """Cancel the requests that no worker has claimed, one by one, and print their number.

    Raises `CommandError`, which has the number, if there are any and ``confirmed`` is False.
    """
    settings = ClientSettings.load()
    with closing(connect(settings)) as connection, redis_errors_translated(settings):
        records = RequestRecords(connection, settings)
        waiting = records.waiting()
        count = quantity(len(waiting), "queued request")
        if waiting and not confirmed:
            raise CommandError(f"this cancels {count}; to confirm, add --yes")
        canceled = sum(records.cancel_waiting(id, WHO) for id in waiting)
    if left := len(waiting) - canceled:
        print_status(f"{left:,} of {count} had been claimed or had ended by then")
    skipped = "; workers skip the messages that `penstock queues` still counts" if canceled else ""
    print_status(f"canceled {quantity(canceled, 'queued request')}{skipped}")
