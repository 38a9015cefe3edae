"""``penstock batch results``: JSONL to stdout or a file that can be gone on with, or Parquet."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from penstock.batches.parquet import write_parquet
from penstock.batches.results import ORDERS, checked_order
from penstock.batches.view import Batch
from penstock.cli.command_error import CommandError
from penstock.cli.job_lookup import find_job
from penstock.cli.partial_file import PartialFile, open_partial, partial_path
from penstock.cli.text.job_fields import end_reason
from penstock.cli.text.output import print_status, quantity, write_line
from penstock.cli.text.progress_bars import results_bar
from penstock.client import Client
from penstock.errors import NotEnded
from penstock.states import State

#: The result lines behind so many.
LinesAfter = Callable[[int], Iterator[bytes]]


@click.command(short_help="Write a job's results: JSONL or Parquet.")
@click.argument("id")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    default="completed",
    show_default=True,
    help="As they came, or as they were asked for.",
)
@click.option("--wait", is_flag=True, help="Of a running job: each result as soon as it is there.")
@click.option("--resume", is_flag=True, help="Go on with what an earlier call left in FILE.part.")
@click.option("--parquet", is_flag=True, help="Write Parquet, also where FILE is not *.parquet.")
def results(
    id: str, output: Path | None, order: str, wait: bool, resume: bool, parquet: bool
) -> None:
    """Write the results of job ID as JSONL, as the API gives them: to stdout, or to FILE.

    custom_id tells which is which. FILE appears when it is complete; until then it is FILE.part.

    \b
      penstock batch results ID | jq -r .result.message.content[0].text
      penstock batch results ID -o answers.jsonl --resume
      penstock batch results ID -o answers.parquet --order submitted
    """
    parquet = parquet or (output is not None and output.suffix == ".parquet")
    _check(output, resume=resume, parquet=parquet)
    checked_order(order, wait=wait)
    with Client() as client:
        job = find_job(client, id)
        if not (job.state.ended or wait):
            raise NotEnded(
                f"{id} has not ended. Results that are there already, and the others as they "
                f"come: penstock batch results {id} --wait"
            )

        def lines(after: int) -> Iterator[bytes]:
            return client.messages.batches.result_lines(id, order=order, after=after, wait=wait)

        if output is None:
            for line in lines(0):
                write_line(line)
                if wait:
                    sys.stdout.buffer.flush()
            return
        try:
            if parquet:
                written = _write_parquet(lines, output, job)
            else:
                written = _write_lines(lines, output, job, order=order, resume=resume, live=wait)
        except OSError as error:
            raise CommandError(f"{output}: {error.strerror}") from error
        print_status(f"{quantity(written, 'result')} in {output}")
        _report_missing_results(client.messages.batches.retrieve(id))


def _check(output: Path | None, *, resume: bool, parquet: bool) -> None:
    if output is None and (resume or parquet):
        raise click.UsageError(f"--{'resume' if resume else 'parquet'} needs -o FILE")
    if resume and parquet:
        raise click.UsageError("a Parquet file cannot be gone on with: leave --resume out")


def _resume_command(id: str, path: Path, order: str, *, live: bool) -> str:
    """The command that goes on with what is kept."""
    chosen = "" if order == "completed" else f" --order {order}"
    if live:
        chosen += " --wait"
    return f"penstock batch results {id} -o {path}{chosen} --resume"


def _write_lines(
    lines: LinesAfter, path: Path, job: Batch, *, order: str, resume: bool, live: bool
) -> int:
    with open_partial(path, resume=resume) as file:
        source = _remaining_lines(lines, file, path)
        try:
            total = job.request_counts.total
            with results_bar(source, total, done=file.lines) as counted:
                for line in counted:
                    file.write(line)
                    if live:
                        file.flush()
        except BaseException:
            if file.lines:
                kept = f"{quantity(file.lines, 'result')} kept in {file.path}"
                print_status(f"{kept}; to go on: {_resume_command(job.id, path, order, live=live)}")
            raise
        return file.lines


def _remaining_lines(lines: LinesAfter, file: PartialFile, path: Path) -> Iterator[bytes]:
    """The lines behind those in the file.

    Raises `CommandError` if it holds those of another job, or of another order.
    """
    if not file.lines:
        return lines(0)
    rest = lines(file.lines - 1)
    if next(rest, None) != file.last:
        raise CommandError(
            f"{file.path} holds results of another job, or in another order; to begin anew: "
            f"the same without --resume, or with another name than {path}"
        )
    return rest


def _write_parquet(lines: LinesAfter, path: Path, job: Batch) -> int:
    part = partial_path(path)
    try:
        with results_bar(lines(0), job.request_counts.total) as counted:
            written = write_parquet(counted, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return written


def _report_missing_results(job: Batch) -> None:
    """A job that failed may have requests without a result."""
    if job.request_counts.processing:
        print_status(f"{quantity(job.request_counts.processing, 'request')} without a result")
    if job.state is State.FAILED:
        print_status(f"the job failed: {end_reason(job)}")
