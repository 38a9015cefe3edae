"""Finding the batch job that a command is given by its id."""

from penstock.batches.view import Batch
from penstock.cli.command_error import CommandError
from penstock.client import Client


def find_job(client: Client, id: str) -> Batch:
    """Return the batch job ``id``.

    Raises `CommandError` if the id is that of a streamed request, or `NotFound`.
    """
    if client.messages.request(id).record().fields.get("kind") != "batch":
        raise CommandError(
            f"{id} is a streamed request, not a batch job; try: penstock follow {id}"
        )
    return client.messages.batches.retrieve(id)
