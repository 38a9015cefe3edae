"""``penstock stream`` and ``penstock follow``: an answer, typed as it arrives."""

import sys
from collections.abc import Iterator
from typing import Any

import click

from penstock import events
from penstock.cli.command_error import INTERRUPTED, CommandError
from penstock.cli.text.output import print_status, summary, write_line, write_text
from penstock.client import Client
from penstock.errors import RequestCanceled, RequestFailed
from penstock.events import Cursor, Event
from penstock.states import State
from penstock.streams.stream import MessageStream, StreamRequest

DEFAULT_MODEL = "claude-haiku-4-5"

#: After so many seconds without an event we look whether a worker has taken the request at all.
WORKER_NOTICE_S = 5.0

_json = click.option("--json", "as_json", is_flag=True, help="Print the raw events, one a line.")


@click.command(short_help="Ask, and type the answer as it arrives.")
@click.argument("prompt", required=False)
@click.option("--model", "-m", default=DEFAULT_MODEL, show_default=True, help="Which model.")
@click.option("--max-tokens", default=1024, show_default=True, help="Longest answer.")
@click.option("--system", "-s", help="System prompt.")
@_json
def stream(
    prompt: str | None, model: str, max_tokens: int, system: str | None, as_json: bool
) -> None:
    """Send PROMPT through the queue and type the answer as it arrives.

    Without PROMPT, or with -, it is read from stdin. The answer goes to stdout; id, tokens and
    times go to stderr.

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
        _show(request, as_json=as_json)


@click.command(short_help="Type the answer of a request that is under way.")
@click.argument("id")
@click.option("--after", metavar="CURSOR", help="Go on behind this event, such as 1-58.")
@_json
def follow(id: str, after: str | None, as_json: bool) -> None:
    """Type the answer of request ID, from its beginning, up to its end.

    Any number of followers can read the same answer, early or late. With --after it goes on
    behind the last event that was taken: the cursor is "e" and "n" of its --json line.

    \b
      penstock follow 0198c1d2-…
      penstock follow 0198c1d2-… --after 1-58 --json
    """
    with Client() as client:
        request = client.messages.request(id)
        if request.record().fields.get("kind") == "batch":
            raise CommandError(f"{id} is a batch job; try: penstock batch watch {id}")
        _show(request, after=_cursor(after), as_json=as_json)


def _read_stdin() -> str:
    if sys.stdin.isatty():
        print_status("Type the prompt; Ctrl-D on an empty line sends it.")
    try:
        return sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as error:
        raise CommandError(f"the prompt on stdin is not UTF-8 (byte {error.start})") from None


def _cursor(text: str | None) -> Cursor | None:
    try:
        return Cursor.parse(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--after") from None


def _show(request: StreamRequest, *, after: Cursor | None = None, as_json: bool) -> None:
    """Type one answer; a failed or canceled one raises behind its last event."""
    source = _events_with_notice(request, after)
    answer = MessageStream(request, _print_events(source) if as_json else source)
    try:
        if as_json:
            answer.until_done()
        else:
            _type(answer)
    except KeyboardInterrupt:
        raise CommandError(
            f"interrupted; the request goes on: penstock follow {request.id}, "
            f"or penstock cancel {request.id}",
            INTERRUPTED,
        ) from None
    except (RequestFailed, RequestCanceled) as error:
        raise CommandError(f"{error} (id {request.id})") from error
    finally:
        answer.close()
    if answer.end is not None:
        print_status(summary(request.id, answer.end))


def _type(answer: MessageStream) -> None:
    typed = ""
    try:
        for event in answer:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                typed = event.delta.text or typed
                write_text(event.delta.text)
            elif event.type == events.REWIND:
                print_status(
                    f"\n(block {event.index} starts again behind character {event.offset})"
                )
    finally:
        if typed and not typed.endswith("\n"):
            write_text("\n")


def _print_events(source: Iterator[Event]) -> Iterator[Event]:
    for event in source:
        write_line(events.encode(event.epoch, event.n, event.data))
        sys.stdout.flush()
        yield event


def _events_with_notice(request: StreamRequest, after: Cursor | None) -> Iterator[Event]:
    """All events; says so, once, where no worker takes the request."""
    told = False
    while True:
        try:
            for event in request.events(after=after, timeout=WORKER_NOTICE_S):
                after = event.cursor
                yield event
            return
        except TimeoutError:
            if not told and request.state is State.QUEUED:
                print_status(f"{request.id} waits for a worker (penstock doctor looks for one)")
                told = True
