"""Relay: the size of one response harms no other stream of its worker."""

import asyncio
import gzip

import pytest

from config import error_bodies
from tasks.api import response_body
from tests.contract.tasks.streams.conftest import Perform
from tests.contract.tasks.streams.raw_api import (
    OK,
    Answer,
    sse,
    start,
    text,
    whole,
)
from tests.contract.tasks.streams.relay_stage import RelayStage

MB = 2**20
LABEL = b"content-encoding: gzip\r\n"
ENDLESS = sse(*start(), *text(*["word "] * 1_000))


def bomb(body: bytes, *, label: bytes = b"", status: bytes = OK) -> Answer:
    return Answer(status + label + b"\r\n" + gzip.compress(body, 1))


@pytest.mark.parametrize("label", [b"", LABEL])
@pytest.mark.parametrize(
    "body",
    [b"\n" * 200 * MB, b"\r\n" * 70 * MB, sse(*start()) + b"\n" * 200 * MB],
    ids=["newlines", "CRLF", "newlines after events"],
)
def test_a_good_stream_is_exact_and_ends_first_next_to_a_response_that_is_too_large(
    perform: Perform, body: bytes, label: bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        large = stage.submit()
        running = asyncio.create_task(stage.end(large))
        while not stage.api.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        good = stage.submit()
        end = await stage.end(good)
        assert (end["state"], stage.text(good)) == ("done", "Hello you")
        assert not running.done(), "the other response was too small for this test"
        end = await running
        assert (end["state"], end["error"]["type"]) == ("failed", "response_too_large")
        assert "more than 128 MB" in end["error"]["message"]
        assert end["attempts"] == 1

    perform(test, bomb(body, label=label), whole("Hello", " you"), stream_idle_timeout_s=60)


@pytest.mark.parametrize("packed", [True, False])
def test_a_text_without_an_end_is_refused_and_what_arrived_is_kept(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(response_body, "MAX_BODY_BYTES", 300_000)

    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["error"]["type"]) == ("failed", "response_too_large")
        assert stage.text(id).startswith("word " * 1_000)

    body = ENDLESS + sse(*text(*["word "] * 5_000))
    plain = Answer(OK + b"\r\n" + body, is_silent=True)
    perform(test, bomb(body) if packed else plain, stream_idle_timeout_s=60)


@pytest.mark.parametrize("label", [b"", LABEL])
def test_the_description_of_an_error_is_cut(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, label: bytes
) -> None:
    monkeypatch.setattr(error_bodies, "MAX_ERROR_BODY_BYTES", 10_000)

    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit())
        assert (end["state"], end["error"]["status"]) == ("failed", 400)
        assert "x" * 50 in end["error"]["message"]

    head = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"
    body = b"x" * 50 * MB
    answer = bomb(body, label=label, status=head)
    perform(test, answer if label else Answer(head + b"\r\n" + body))
