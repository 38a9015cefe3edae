"""``penstock batch``: submit a file of requests, watch the job, fetch its results."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click
import orjson

from penstock.batch import Batch
from penstock.cli.failure import INTERRUPTED, Failure
from penstock.cli.output import note, outcome, price, write_line
from penstock.cli.watching import bytes_read, watched
from penstock.client import Client
from penstock.errors import InvalidRequest, NotEnded
from penstock.states import State


@click.group(short_help="Submit, watch and collect batch jobs, at half price.")
def batch() -> None:
    """Batch jobs: many requests at half price, done within a day and mostly much sooner.

    \b
      id=$(penstock batch submit questions.jsonl)
      penstock batch watch $id
      penstock batch results $id -o answers.jsonl
    """


@batch.command(short_help="Enqueue a file of requests; prints the job's id.")
@click.argument("file", type=click.File("rb"))
def submit(file: IO[bytes]) -> None:
    """Submit the requests in FILE, or - for stdin; prints the job's id.

    Each line is what the API takes as one request of a batch. Every line is checked before
    anything is enqueued.

    \b
      {"custom_id": "q-1", "params": {"model": "claude-haiku-4-5", "max_tokens": 100,
       "messages": [{"role": "user", "content": "Why is the sky blue?"}]}}
    (one request a line, without the line break shown here)
    """
    with Client() as client, bytes_read(file) as lines:
        job = client.messages.batches.create(requests=_requests(lines))
    click.echo(job.id)
    note(f"{job.request_counts.total} requests (penstock batch watch {job.id})")


@batch.command(short_help="Show how a job stands.")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(id: str, as_json: bool) -> None:
    """Show how job ID stands."""
    with Client() as client:
        job = _job(client, id)
    if as_json:
        write_line(orjson.dumps(job))
        return
    for name, value in _facts(job):
        click.echo(f"{name:<10}{value}")


@batch.command(short_help="Follow a job up to its end.")
@click.argument("id")
def watch(id: str) -> None:
    """Follow job ID up to its end; the exit code is 0 if it ended well.

    A terminal shows a bar for each shard; anything else gets a line per step.
    """
    with Client() as client:
        job = _job(client, id)
        try:
            job = watched(client.messages.batches, id)
        except KeyboardInterrupt:
            hint = f"interrupted; the job goes on: penstock batch watch {id}"
            raise Failure(hint, INTERRUPTED) from None
    note(f"{outcome(job.request_counts)}; cost {price(job.cost)}")
    if job.state is not State.DONE:
        raise Failure(_why(job))


@batch.command(short_help="Write an ended job's results as JSONL.")
@click.argument("id")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
def results(id: str, output: Path | None) -> None:
    """Write the results of job ID as JSONL, as the API gives them: to stdout, or to FILE.

    They come in any order; custom_id tells which is which. FILE appears when it is complete.

    \b
      penstock batch results ID | jq -r .result.message.content[0].text
    """
    with Client() as client:
        job = _job(client, id)
        if not job.state.ended:
            raise NotEnded(f"{id} has not ended: its results come all at once, at the end")
        with _complete(output) as file:
            written = 0
            for line in client.messages.batches.result_lines(id):
                write_line(line, file)
                written += 1
    if output is not None:
        note(f"{written} results in {output}")


@batch.command(short_help="End a job, keeping what has succeeded.")
@click.argument("id")
def cancel(id: str) -> None:
    """Ask for job ID to be canceled; requests that have succeeded keep their results."""
    with Client() as client:
        if _job(client, id).state.ended:
            note(f"{id} had ended already")
            return
        client.messages.batches.cancel(id, who="command line")
    note(f"{id} is being canceled (penstock batch watch {id})")


@batch.command("list", short_help="List the newest jobs.")
@click.option("--limit", default=20, show_default=True, help="How many, newest first.")
def list_jobs(limit: int) -> None:
    """List the newest jobs: id, state, when it was made, model and counts."""
    with Client() as client:
        jobs = client.messages.batches.list(limit=limit).data
    for job in jobs:
        made = job.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        counts = outcome(job.request_counts)
        click.echo(f"{job.id}  {job.state:<8}  {made}  {job.model:<16}  {counts}")
    if not jobs:
        note("no batch jobs (penstock batch submit FILE.jsonl makes one)")


def _job(client: Client, id: str) -> Batch:
    """The batch job ``id``; a stream's id is a `Failure` that says so."""
    if client.messages.request(id).record().fields.get("kind") != "batch":
        raise Failure(f"{id} is a streamed request, not a batch job; try: penstock follow {id}")
    return client.messages.batches.retrieve(id)


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
            problem = f"is not JSON: {error.msg}, column {error.colno}"
            raise InvalidRequest(problem, line=number) from None


@contextlib.contextmanager
def _complete(path: Path | None) -> Iterator[IO[bytes]]:
    """A file that takes its name once everything is in it; stdout if there is no path."""
    if path is None:
        yield sys.stdout.buffer
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _facts(job: Batch) -> Iterator[tuple[str, str]]:
    yield "id", job.id
    yield (
        "state",
        job.state + (" (cancel asked for)" if job.processing_status == "canceling" else ""),
    )
    yield "model", job.model
    yield "created", job.created_at.astimezone().isoformat(sep=" ", timespec="seconds")
    if job.ended_at is not None:
        yield "ended", job.ended_at.astimezone().isoformat(sep=" ", timespec="seconds")
    yield "requests", f"{job.request_counts.total}: {outcome(job.request_counts)}"
    for shard in job.shards:
        yield f"shard {shard.number}", f"{shard.state} {shard.batch_id}".strip()
    if job.usage:
        yield "tokens", ", ".join(f"{count} {name}" for name, count in job.usage.items())
    if job.state.ended:
        yield "cost", price(job.cost)
    if job.error:
        yield "error", _why(job)


def _why(job: Batch) -> str:
    if job.error:
        return f"{job.error.get('type', 'error')}: {job.error.get('message', 'no message')}"
    return f"{job.id} was {job.state}"
