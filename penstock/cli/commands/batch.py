"""``penstock batch``: submit a file of requests, watch the job, look after it."""

from collections.abc import Iterator
from typing import IO, Any

import click
import orjson

from penstock.cli.command_error import INTERRUPTED, CommandError
from penstock.cli.commands.results import results
from penstock.cli.job_lookup import find_job
from penstock.cli.text.job_fields import end_reason, job_fields
from penstock.cli.text.job_progress import watch_job
from penstock.cli.text.output import (
    cost_summary,
    dollars,
    outcome_counts,
    print_status,
    quantity,
    write_line,
)
from penstock.cli.text.progress_bars import requests_bar
from penstock.cli.text.shard_table import MAX_ROWS, shard_table
from penstock.client import Client
from penstock.errors import InvalidRequest
from penstock.states import State


@click.group(short_help="Submit, watch and collect batch jobs, at half price.")
def batch() -> None:
    """Batch jobs: any number of requests at half price, done within a day and mostly much sooner.

    \b
      id=$(penstock batch submit questions.jsonl)
      penstock batch watch $id
      penstock batch results $id -o answers.jsonl
    """


batch.add_command(results)


@batch.command(short_help="Enqueue a file of requests; prints the job's id.")
@click.argument("file", type=click.File("rb"))
@click.option("--canary", type=int, metavar="K", help="Send the first K live; the rest waits.")
@click.option("--max-cost", type=float, metavar="USD", help="Pause before it can cost more.")
@click.option("--beta", "betas", multiple=True, metavar="NAME", help="Beta header; repeatable.")
@click.option("--shard-requests", type=int, metavar="N", help="Requests in one batch of the API.")
@click.option("--watch", "watching", is_flag=True, help="Follow the job up to its end.")
def submit(
    file: IO[bytes],
    canary: int | None,
    max_cost: float | None,
    betas: tuple[str, ...],
    shard_requests: int | None,
    watching: bool,
) -> None:
    """Submit the requests in FILE, or - for stdin; prints the job's id.

    Each line is what the API takes as one request of a batch; there may be millions. Every line
    is checked before anything is enqueued. Once the id is printed, workers do the rest.

    \b
      {"custom_id": "q-1", "params": {"model": "claude-haiku-4-5", "max_tokens": 100,
       "messages": [{"role": "user", "content": "Why is the sky blue?"}]}}
    (one request a line, without the line break shown here)
    """
    asked = {"canary": canary, "max_cost_usd": max_cost, "shard_requests": shard_requests}
    options: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if betas:
        options["betas"] = betas
    with Client() as client:
        with requests_bar(file) as lines:
            job = client.messages.batches.create(requests=_requests(lines), **options)
        click.echo(job.id)
        told = quantity(job.request_counts.total, "request")
        if len(job.shards) > 1:
            told += f" in {quantity(len(job.shards), 'batch', 'batches')}"
        print_status(f"{told} (penstock batch watch {job.id})")
        if watching:
            _watch(client, job.id)


@batch.command(short_help="DemoSteps how a job stands.")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--all", "every", is_flag=True, help=f"DemoSteps all batches, not only {MAX_ROWS}.")
def status(id: str, as_json: bool, every: bool) -> None:
    """DemoSteps how job ID stands: what it waits for, its batches, its tokens and its cost.

    Nothing is known of a batch's requests before all of it has ended: until then they count as
    processing.
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
    for line in shard_table(job, rows=None if every else MAX_ROWS):
        click.echo(line)


@batch.command(short_help="Follow a job up to its end.")
@click.argument("id")
def watch(id: str) -> None:
    """Follow job ID up to its end; the exit code is 0 if it ended well.

    A terminal shows a table of its batches; anything else gets a line per step. A job that is
    paused is followed further: the table says what to do. Ctrl-C ends only the watching.
    """
    with Client() as client:
        find_job(client, id)
        _watch(client, id)


@batch.command(short_help="End a job, keeping what has succeeded.")
@click.argument("id")
def cancel(id: str) -> None:
    """Ask for job ID to be canceled; requests that have succeeded keep their results."""
    with Client() as client:
        if find_job(client, id).state.ended:
            print_status(f"{id} had ended already")
            return
        client.messages.batches.cancel(id, who="command line")
    print_status(f"{id} is being canceled (penstock batch watch {id})")


@batch.command(short_help="Let a paused job go on.")
@click.argument("id")
@click.option("--max-cost", type=float, metavar="USD", help="A new money cap, if it reached its.")
def resume(id: str, max_cost: float | None) -> None:
    """Let job ID go on, once what it was paused for is put right (penstock batch status ID)."""
    with Client() as client:
        before = find_job(client, id)
        if before.state.ended:
            raise CommandError(f"{id} has ended: {before.state}")
        client.messages.batches.resume(id, who="command line", max_cost_usd=max_cost)
    if max_cost is not None:
        print_status(f"{id} may cost {dollars(max_cost)} USD now")
    if before.paused is None:
        print_status(f"{id} was not paused")
        return
    print_status(f"{id} goes on; it was paused by {before.paused.type} (penstock batch watch {id})")


@batch.command(short_help="Remove an ended job and its results.")
@click.argument("id")
@click.option("--yes", is_flag=True, help="Really.")
def delete(id: str, yes: bool) -> None:
    """Remove job ID with all its results, for good. Only what has ended can be removed."""
    with Client() as client:
        job = find_job(client, id)
        if not yes and job.state.ended:
            lines = job.request_counts.total - job.request_counts.processing
            raise CommandError(
                f"this removes {quantity(lines, 'result')} for good; if so, say --yes"
            )
        client.messages.batches.delete(id)
    print_status(f"{id} is removed")


@batch.command("list", short_help="List the newest jobs.")
@click.option("--limit", default=20, show_default=True, help="How many, newest first.")
def list_jobs(limit: int) -> None:
    """List the newest jobs: id, state, when it was made, model and counts."""
    with Client() as client:
        jobs = client.messages.batches.list(limit=limit).data
    for job in jobs:
        made = job.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        counts = outcome_counts(job.request_counts)
        state = f"paused by {job.paused.type}; " if job.paused else ""
        click.echo(f"{job.id}  {job.state:<8}  {made}  {job.model:<16}  {state}{counts}")
    if not jobs:
        print_status("no batch jobs (penstock batch submit FILE.jsonl makes one)")


def _watch(client: Client, id: str) -> None:
    """Follow a job; one that does not end well is a `CommandError`."""
    try:
        job = watch_job(client.messages.batches, id)
    except KeyboardInterrupt:
        hint = f"interrupted; the job goes on: penstock batch watch {id}"
        raise CommandError(hint, INTERRUPTED) from None
    print_status(f"{outcome_counts(job.request_counts)}; cost {cost_summary(job.cost)}")
    if job.state is not State.DONE:
        raise CommandError(end_reason(job))


def _requests(lines: Iterator[bytes]) -> Iterator[object]:
    """Parse JSONL; only the end of the file may hold empty lines, so that numbers stay true."""
    empty = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            empty = empty or number
            continue
        if empty:
            raise InvalidRequest("is empty", line=empty)
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"is not JSON: {_words(error)}", line=number) from None


def _words(error: orjson.JSONDecodeError) -> str:
    if "UTF-8" in error.msg:
        return "not UTF-8 text"
    if error.msg == "unexpected end of data":
        return "it ends too early; each request has to be one line"
    return f"{error.msg}, column {error.colno}"
