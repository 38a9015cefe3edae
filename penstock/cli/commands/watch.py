"""``penstock batch watch`` and ``wait``: follow a job to its end, and exit with how it ended."""

import click

from penstock.batches.view import Batch
from penstock.cli.command_error import INTERRUPTED, UNSUCCESSFUL, CommandError
from penstock.cli.job_lookup import find_job
from penstock.cli.text.job_fields import end_reason
from penstock.cli.text.job_progress import watch_job
from penstock.cli.text.output import cost_summary, error_counts, outcome_counts, print_status
from penstock.client import Client
from penstock.states import State


@click.command(short_help="Watch a job until it ends.")
@click.argument("id")
def watch(id: str) -> None:
    """Watch job ID until it ends.

    A terminal shows a live table of the job's shards; otherwise each change is printed as a
    line. If the job is paused, the output shows how to resume it. Ctrl-C stops watching, not the
    job.

    The exit code is 0 if all requests have succeeded, 3 if the job is done and some have not, and
    1 if the job failed or was canceled.
    """
    with Client() as client:
        find_job(client, id)
        watch_to_end(client, id)


@click.command(short_help="Wait until a job ends, and print only how.")
@click.argument("id")
def wait(id: str) -> None:
    """Wait until job ID ends, in silence, and print how it ended on stderr.

    The exit codes are those of `penstock batch watch`. Ctrl-C stops waiting, not the job.
    """
    with Client() as client:
        find_job(client, id)
        try:
            job = client.messages.batches.wait(id)
        except KeyboardInterrupt:
            raise _interrupted(id) from None
        report_end(job)


def watch_to_end(client: Client, id: str) -> None:
    """Show the progress of a job until it ends. Raises `CommandError`: see `report_end`."""
    try:
        job = watch_job(client.messages.batches, id)
    except KeyboardInterrupt:
        raise _interrupted(id) from None
    report_end(job)


def report_end(job: Batch) -> None:
    """Print how a job has ended.

    Raises `CommandError` if it failed or was canceled, and one with the exit code `UNSUCCESSFUL` if
    it is done and some of its requests did not succeed.
    """
    print_status(f"{outcome_counts(job.request_counts)}; cost {cost_summary(job.cost)}")
    if job.state is not State.DONE:
        raise CommandError(end_reason(job))
    if job.unsuccessful:
        errors = f" ({error_counts(job.errors)})" if job.errors else ""
        raise CommandError(
            f"{job.unsuccessful:,} of {job.request_counts.total:,} requests did not succeed"
            f"{errors}; to send them again: penstock batch retry-failed {job.id}",
            UNSUCCESSFUL,
        )


def _interrupted(id: str) -> CommandError:
    hint = f"interrupted; the job continues. To watch the job: penstock batch watch {id}"
    return CommandError(hint, INTERRUPTED)
