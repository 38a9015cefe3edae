"""``penstock stream`` and ``penstock follow``: print an answer as it arrives."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from penstock import events
from penstock.cli.command_error import INTERRUPTED, CommandError
from penstock.cli.text.output import print_status, summary, write_line, write_text
from penstock.client import Client
from penstock.clock import now_ms
from penstock.errors import RequestCanceled, RequestFailed
from penstock.events import Cursor, Event
from penstock.states import State
from penstock.store.record import Record
from penstock.streams.stream import MessageStream, StreamRequest

DEFAULT_MODEL = "claude-haiku-4-5"

#: Seconds without an event after which we check whether a worker has claimed the request.
WORKER_CHECK_S = 5.0

_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the raw events, one JSON object per line."
)


@click.command(short_help="Send a prompt and print the answer as it arrives.")
@click.argument("prompt", required=False)
@click.option(
    "--model", "-m", default=DEFAULT_MODEL, show_default=True, metavar="MODEL", help="Model id."
)
@click.option(
    "--max-tokens",
    default=1024,
    show_default=True,
    metavar="N",
    help="Maximum length of the answer in tokens.",
)
@click.option("--system", "-s", metavar="TEXT", help="System prompt.")
@_json
def stream(
    prompt: str | None, model: str, max_tokens: int, system: str | None, as_json: bool
) -> None:
    """Send PROMPT through the queue and print the answer as it arrives.

    If PROMPT is omitted or is -, it is read from stdin. The answer is written to stdout; the
    request id, token counts and timings are written to stderr.

    \b
      penstock stream "Why is the sky blue?"
      git diff | penstock stream --system "Write a commit message for this diff." > message
    """
    text = _read_stdin() if prompt in (None, "-") else prompt
    if not text:
        raise click.UsageError("the prompt is empty")
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": text}],
        **({"system": system} if system else {}),
    }
    with Client() as client:
        request = client.messages.enqueue(**body)
        _print_answer(request, as_json=as_json)


@click.command(short_help="Print the answer of an existing request.")
@click.argument("id")
@click.option("--after", metavar="CURSOR", help="Resume after this event, for example 1-58.")
@_json
def follow(id: str, after: str | None, as_json: bool) -> None:
    """Print the answer of request ID from its beginning until it ends.

    Any number of readers can follow a request, while it runs and after it has ended. To resume
    after the last event you have, pass its cursor to --after: "e" and "n" of its line from
    --json, joined by a hyphen.

    \b
      penstock follow 01a2069e-6cb7-7b7e-bef3-32eebfc03309
      penstock follow 01a2069e-6cb7-7b7e-bef3-32eebfc03309 --after 1-58 --json
    """
    with Client() as client:
        request = client.messages.request(id)
        if request.record().fields.get("kind") == "batch":
            raise CommandError(f"{id} is a batch job; try: penstock batch watch {id}")
        _print_answer(request, after=_cursor(after), as_json=as_json)


def _read_stdin() -> str:
    if sys.stdin.isatty():
        print_status("Enter the prompt; press Ctrl-D on an empty line to send it.")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise CommandError(
            f"the prompt on stdin is not valid UTF-8 (at byte {error.start})"
        ) from None


def _cursor(text: str | None) -> Cursor | None:
    try:
        return Cursor.parse(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--after") from None


def _print_answer(request: StreamRequest, *, after: Cursor | None = None, as_json: bool) -> None:
    """Print an answer. Raises `CommandError` if the request failed or was canceled."""
    source = _events_with_note(request, after)
    answer = MessageStream(request, _print_events(source) if as_json else source)
    try:
        if as_json:
            answer.until_done()
        else:
            _print_text(answer)
    except KeyboardInterrupt:
        raise CommandError(
            f"interrupted; the request continues. To follow it: penstock follow "
            f"{request.id}; to cancel it: penstock cancel {request.id}",
            INTERRUPTED,
        ) from None
    except (RequestFailed, RequestCanceled) as error:
        raise CommandError(f"{error} (id {request.id})") from error
    finally:
        answer.close()
    if answer.end is not None:
        print_status(summary(request.id, answer.end))


def _print_text(answer: MessageStream) -> None:
    """Print the text: on a terminal at once, otherwise once it is final.

    A file or a pipe cannot take back what a rewind withdraws.
    """
    printed = ""
    try:
        for piece in _live_text(answer) if sys.stdout.isatty() else answer.text_stream:
            printed = piece or printed
            write_text(piece)
    finally:
        if printed and not printed.endswith("\n"):
            write_text("\n")


def _live_text(answer: MessageStream) -> Iterator[str]:
    """Yield the text of every delta; print a note if some of it is withdrawn."""
    for event in answer:
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            yield event.delta.text
        elif event.type == events.REWIND:
            print_status(f"\n(block {event.index} restarts after character {event.offset})")


def _print_events(source: Iterator[Event]) -> Iterator[Event]:
    for event in source:
        write_line(events.encode(event.epoch, event.n, event.data))
        sys.stdout.flush()
        yield event


def _events_with_note(request: StreamRequest, after: Cursor | None) -> Iterator[Event]:
    """Yield all events; print a note if the request waits, and another if the reason changes."""
    noted = ""
    while True:
        try:
            for event in request.events_waiting(after=after, timeout=WORKER_CHECK_S):
                after = event.cursor
                yield event
            return
        except TimeoutError:
            record = request.record_waiting()
            reason = record.fields.get("waits_for") or "a worker"
            if record.state is State.QUEUED and reason != noted:
                print_status(_waiting_note(record, reason))
                noted = reason


def _waiting_note(record: Record, reason: str) -> str:
    until_ms = int(record.fields.get("wait_until_ms") or 0)
    if "waits_for" not in record.fields:
        return f"{record.id} is waiting for {reason}; to check the workers: penstock doctor"
    if until_ms < now_ms():  # it was due, and no worker has taken it
        return f"{record.id} waited until {_local_time(until_ms)} ({reason}), now for a worker"
    return f"{record.id} waits until {_local_time(until_ms)}: {reason}"


def _local_time(ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(ms / 1000))
