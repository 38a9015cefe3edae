"""``penstock batch retry-failed``: send the requests of a job that did not succeed again."""

import click

from penstock.cli.commands.watch import watch_to_end
from penstock.cli.job_lookup import find_job
from penstock.cli.text.output import print_status, quantity
from penstock.client import Client


@click.command("retry-failed", short_help="Send the failed requests of an ended job again.")
@click.argument("id")
@click.option(
    "--max-cost",
    type=float,
    metavar="USD",
    help="Maximum cost of the new job in US dollars; it pauses before exceeding it.",
)
@click.option("--watch", "then_watch", is_flag=True, help="Watch the new job until it ends.")
def retry_failed(id: str, max_cost: float | None, then_watch: bool) -> None:
    """Send the requests of job ID that did not succeed as a new job, and print the new job's id.

    Job ID must have ended. Its results stay as they are; the new job has one result for each of
    its errored, expired and canceled requests, under the same custom_ids. The new job is paid for
    like any other. A job can be retried once; after that, retry the new job.
    """
    with Client() as client:
        before = find_job(client, id)
        job = client.messages.batches.retry_failed(id, max_cost_usd=max_cost)
        click.echo(job.id)
        count = quantity(job.request_counts.total, "request")
        print_status(f"submitted {count} again; to watch the job: penstock batch watch {job.id}")
        missing = before.unsuccessful - job.request_counts.total
        if missing > 0:
            print_status(
                f"{quantity(missing, 'failed request')} of {id} could not be sent again: not stored"
            )
        if then_watch:
            watch_to_end(client, job.id)
