"""``penstock batch results``: write results as JSONL, resumable, or as Parquet."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from penstock.batches.parquet import write_parquet
from penstock.batches.results import ORDERS, checked_order
from penstock.batches.unreadable import TYPES, lines_of_types
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

#: Names of files whose format is not ours, so that no program is given JSONL under such a name.
_OTHER_FORMATS = {".csv", ".tsv", ".xls", ".xlsx", ".gz", ".bz2", ".xz", ".zst", ".zip"}

#: Returns the result lines after a given number of them.
LinesAfter = Callable[[int], Iterator[bytes]]


@click.command(short_help="Write the results of a job as JSONL or Parquet.")
@click.argument("id")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Output file; Parquet if it is named *.parquet.  [default: stdout]",
)
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    default="completed",
    show_default=True,
    help="Order of the results: as completed, or as submitted.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for a running job; write each result as soon as it is available.",
)
@click.option("--resume", is_flag=True, help="Resume an interrupted download from FILE.part.")
@click.option(
    "--only",
    "types",
    type=click.Choice(TYPES),
    multiple=True,
    help="Write only results of this type; can be repeated.",
)
@click.option("--parquet", is_flag=True, help="Write Parquet even if FILE is not named *.parquet.")
def results(
    id: str,
    output: Path | None,
    order: str,
    wait: bool,
    resume: bool,
    types: tuple[str, ...],
    parquet: bool,
) -> None:
    """Write the results of job ID to stdout or to FILE, in the format of the API.

    Match results to requests by their custom_id. Until FILE is complete, it is named FILE.part.

    \b
      penstock batch results ID | jq -r .result.message.content[0].text
      penstock batch results ID -o answers.jsonl --resume
      penstock batch results ID -o answers.parquet --order submitted
      penstock batch results ID --only errored --only expired
    """
    parquet = parquet or (output is not None and output.suffix.lower() == ".parquet")
    _check_options(output, resume=resume, parquet=parquet, types=types)
    checked_order(order, wait=wait)
    with Client() as client:
        job = find_job(client, id)
        if not (job.state.ended or wait):
            raise NotEnded(
                f"{id} has not ended; to write its results as they become available: "
                f"penstock batch results {id} --wait"
            )

        def lines(after: int) -> Iterator[bytes]:
            found = client.messages.batches.result_lines(id, order=order, after=after, wait=wait)
            return lines_of_types(found, types) if types else found

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
                resumable = _resume_command(id, output, order, live=wait) if not types else ""
                written = _write_lines(lines, output, job, resumable, resume=resume, live=wait)
        except OSError as error:
            raise CommandError(f"{output}: {error.strerror}") from error
        print_status(f"wrote {quantity(written, 'result')} to {output}")
        _report_missing_results(client.messages.batches.retrieve(id))


def _check_options(
    output: Path | None, *, resume: bool, parquet: bool, types: tuple[str, ...]
) -> None:
    if output is None and (resume or parquet):
        raise click.UsageError(f"--{'resume' if resume else 'parquet'} requires -o FILE")
    if resume and types:
        raise click.UsageError("--resume is not supported with --only")
    if resume and parquet:
        raise click.UsageError("--resume is not supported for Parquet output")
    if output is not None and not parquet and output.suffix.lower() in _OTHER_FORMATS:
        raise click.UsageError(
            f"results are written as JSONL or Parquet, so FILE cannot be named *{output.suffix}; "
            "to convert or compress them, omit -o and use a pipe"
        )


def _resume_command(id: str, path: Path, order: str, *, live: bool) -> str:
    """Return the command that resumes an interrupted download."""
    options = "" if order == "completed" else f" --order {order}"
    if live:
        options += " --wait"
    return f"penstock batch results {id} -o {path}{options} --resume"


def _write_lines(
    lines: LinesAfter, path: Path, job: Batch, resumable: str, *, resume: bool, live: bool
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
                kept = f"kept {quantity(file.lines, 'result')} in {file.path}"
                print_status(f"{kept}; to resume: {resumable}" if resumable else kept)
            raise
        return file.lines


def _remaining_lines(lines: LinesAfter, file: PartialFile, path: Path) -> Iterator[bytes]:
    """Return the lines after those in the file.

    Raises `CommandError` if the file holds results of another job or in another order.
    """
    if not file.lines:
        return lines(0)
    remaining = lines(file.lines - 1)
    if next(remaining, None) != file.last_line:
        raise CommandError(
            f"{file.path} holds results of another job or in another order; to overwrite it, "
            f"omit --resume; to keep it, choose another name than {path}"
        )
    return remaining


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
    """Print how many requests of a failed job have no result, and why it failed."""
    if job.request_counts.processing:
        print_status(f"{quantity(job.request_counts.processing, 'request')} without a result")
    if job.state is State.FAILED:
        print_status(f"the job failed: {end_reason(job)}")
