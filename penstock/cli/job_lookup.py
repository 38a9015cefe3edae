"""How commands find the batch job that they are told to look at."""

from penstock.batches.view import Batch
from penstock.cli.command_error import CommandError
from penstock.client import Client


def find_job(client: Client, id: str) -> Batch:
    """The batch job ``id``; a stream's id is a `CommandError` that says so."""
    if client.messages.request(id).record().fields.get("kind") != "batch":
        raise CommandError(
            f"{id} is a streamed request, not a batch job; try: penstock follow {id}"
        )
    return client.messages.batches.retrieve(id)
