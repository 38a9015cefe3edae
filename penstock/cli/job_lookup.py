"""How commands find the batch job that they are told to look at."""

from penstock.batches.view import Batch
from penstock.cli.command_error import Failure
from penstock.client import Client


def job_of(client: Client, id: str) -> Batch:
    """The batch job ``id``; a stream's id is a `Failure` that says so."""
    if client.messages.request(id).record().fields.get("kind") != "batch":
        raise Failure(f"{id} is a streamed request, not a batch job; try: penstock follow {id}")
    return client.messages.batches.retrieve(id)
