"""``penstock batch``: submit, watch and manage batch jobs."""

from typing import IO, Any

import click
import orjson

from penstock.cli.command_error import CommandError
from penstock.cli.commands.results import results
from penstock.cli.commands.retry_failed import retry_failed
from penstock.cli.commands.watch import wait, watch, watch_to_end
from penstock.cli.job_lookup import find_job
from penstock.cli.request_file import RequestFile
from penstock.cli.text.job_fields import job_fields, local_time
from penstock.cli.text.output import (
    dollars,
    outcome_counts,
    print_status,
    quantity,
    write_line,
)
from penstock.cli.text.progress_bars import requests_bar
from penstock.cli.text.shard_table import MAX_ROWS, shard_table
from penstock.client import Client


@click.group(short_help="Run batch jobs, at half the price of live calls.")
def batch() -> None:
    """Run any number of requests as a batch job, at half the price of live calls.

    Workers divide a job into shards; each shard is one batch at the API. Most batches end within
    an hour; the API allows up to 24 hours for each.

    \b
      id=$(penstock batch submit questions.jsonl)
      penstock batch watch $id
      penstock batch results $id -o answers.jsonl
    """


batch.add_command(watch)
batch.add_command(wait)
batch.add_command(results)
batch.add_command(retry_failed)


@batch.command(short_help="Submit a file of requests and print the job's id.")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--canary",
    type=int,
    metavar="N",
    help="Run the first N requests as live calls before sending the rest.",
)
@click.option(
    "--max-cost",
    type=float,
    metavar="USD",
    help="Maximum cost in US dollars; the job pauses before exceeding it.",
)
@click.option(
    "--beta",
    "betas",
    multiple=True,
    metavar="NAME",
    help="API beta to enable; can be repeated.",
)
@click.option(
    "--shard-requests",
    type=int,
    metavar="N",
    help="Maximum number of requests per batch at the API.",
)
@click.option("--watch", "then_watch", is_flag=True, help="Watch the job until it ends.")
def submit(
    file: IO[bytes],
    canary: int | None,
    max_cost: float | None,
    betas: tuple[str, ...],
    shard_requests: int | None,
    then_watch: bool,
) -> None:
    """Submit the requests in FILE, or in stdin if FILE is -, and print the job's id.

    Each line is one request in the format of the Message Batches API; there is no limit to their
    number. FILE may be compressed with gzip, or be a JSON array. All requests are validated before
    the job is enqueued. Once the id is printed, the job runs without this command.

    \b
      {"custom_id": "q-1", "params": {"model": "claude-haiku-4-5", "max_tokens": 100,
       "messages": [{"role": "user", "content": "Why is the sky blue?"}]}}
    (each request must be on a single line; it is wrapped here to fit)
    """
    given = {"canary": canary, "max_cost_usd": max_cost, "shard_requests": shard_requests}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if betas:
        options["betas"] = betas
    with Client() as client:
        source = RequestFile(file)
        with source.errors_explained(), requests_bar(source.bytes) as lines:
            requests = source.requests(lines)
            job = client.messages.batches.create(requests=requests, **options)
        click.echo(job.id)
        submitted = quantity(job.request_counts.total, "request")
        if len(job.shards) > 1:
            submitted += f" in {quantity(len(job.shards), 'batch', 'batches')}"
        print_status(f"submitted {submitted}; to watch the job: penstock batch watch {job.id}")
        if then_watch:
            watch_to_end(client, job.id)


@batch.command(short_help="Show the state of a job.")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print the job as one JSON object.")
@click.option(
    "--all", "show_all", is_flag=True, help=f"Show all shards instead of at most {MAX_ROWS}."
)
def status(id: str, as_json: bool, show_all: bool) -> None:
    """Show the state of job ID: its progress, shards, tokens and cost.

    The API reports no counts until a whole batch has ended; until then its requests are shown
    as processing.
    """
    with Client() as client:
        job = find_job(client, id)
        if as_json:
            write_line(orjson.dumps(job))
            return
        estimate = client.messages.batches.estimate(job)
    for name, value in job_fields(job, estimate):
        click.echo(f"{name:<11}{value}")
    click.echo()
    for line in shard_table(job, rows=None if show_all else MAX_ROWS):
        click.echo(line)


@batch.command(short_help="Cancel a job, keeping the results so far.")
@click.argument("id")
def cancel(id: str) -> None:
    """Cancel job ID. Results of requests that have already succeeded are kept."""
    with Client() as client:
        job = find_job(client, id)
        if job.state.ended:
            print_status(f"{id} has already ended: {job.state}")
            return
        client.messages.batches.cancel(id, who="command line")
    print_status(f"canceling {id}; to watch the job: penstock batch watch {id}")


@batch.command(short_help="Resume a paused job.")
@click.argument("id")
@click.option(
    "--max-cost",
    type=float,
    metavar="USD",
    help="New cost cap in US dollars, for a job submitted with --max-cost.",
)
def resume(id: str, max_cost: float | None) -> None:
    """Resume job ID after fixing the cause shown by `penstock batch status ID`."""
    with Client() as client:
        before = find_job(client, id)
        if before.state.ended:
            raise CommandError(f"{id} has already ended: {before.state}")
        client.messages.batches.resume(id, who="command line", max_cost_usd=max_cost)
    if max_cost is not None:
        print_status(f"set the cost cap of {id} to {dollars(max_cost)} USD")
    if before.paused is None:
        print_status(f"{id} was not paused")
        return
    reason = f"paused by {before.paused.type}"
    print_status(f"resumed {id} ({reason}); to watch the job: penstock batch watch {id}")


@batch.command(short_help="Delete an ended job and its results.")
@click.argument("id")
@click.option("--yes", is_flag=True, help="Confirm the deletion; required.")
def delete(id: str, yes: bool) -> None:
    """Delete job ID and its results permanently. The job must have ended."""
    with Client() as client:
        job = find_job(client, id)
        if not yes and job.state.ended:
            count = job.request_counts.total - job.request_counts.processing
            deleted = quantity(count, "result")
            raise CommandError(f"this permanently deletes {deleted}; to confirm, add --yes")
        client.messages.batches.delete(id)
    print_status(f"deleted {id}")


@batch.command("list", short_help="List the newest jobs.")
@click.option("--limit", default=20, show_default=True, metavar="N", help="Maximum number of jobs.")
def list_jobs(limit: int) -> None:
    """List the newest jobs: id, state, creation time, model and request counts."""
    with Client() as client:
        jobs = client.messages.batches.list(limit=limit).data
    for job in jobs:
        created = local_time(job.created_at)
        counts = outcome_counts(job.request_counts)
        state = f"paused by {job.paused.type}; " if job.paused else ""
        click.echo(f"{job.id}  {job.state:<8}  {created}  {job.model:<16}  {state}{counts}")
    if not jobs:
        print_status("no batch jobs; to submit one: penstock batch submit FILE.jsonl")
