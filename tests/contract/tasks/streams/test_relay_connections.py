"""Relay: what one response does to its connection harms only its own request."""

from typing import Any

import pytest

from tests.contract.tasks.streams.conftest import Perform
from tests.contract.tasks.streams.raw_api import OK, Answer, sse, start, text, whole
from tests.contract.tasks.streams.relay_stage import RelayStage

CHUNKED = OK.replace(b"connection: close", b"transfer-encoding: chunked") + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize(
    "cookie",
    [b"a=\xff\xfe", b"a=b", b"a=b; domain=127.0.0.1", b"\x80=1; path=/", b"=;;=", b"a" * 9_000],
)
def test_a_cookie_of_one_response_is_not_sent_with_other_calls(
    perform: Perform, cookie: bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        for _ in range(3):
            end = await stage.end(stage.submit())
            assert (end["state"], end.get("error")) == ("done", None)
        assert all("cookie" not in head for head in stage.api.heads)

    perform(test, whole("Hello", headers=b"set-cookie: " + cookie + b"\r\n"))


@pytest.mark.parametrize(
    "damaged",
    [
        b"zz\r\nabc\r\n",
        b"-5\r\nab\r\n",
        b"f" * 18 + b"\r\na\r\n",
        b"3\r\nabcdef\r\n",
        b"0\r\nx\r\n\r\n",
    ],
)
def test_a_chunk_that_is_damaged_after_the_first_event_ends_the_call(
    perform: Perform, damaged: bytes
) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["error"]["type"]) == ("failed", "connection_error")
        assert stage.api.calls == end["attempts"] == 2

    begin = CHUNKED + chunk(sse(*start()))
    perform(test, Answer(begin, then=damaged, is_silent=True), stream_idle_timeout_s=60)


def test_an_answer_is_continued_after_a_damaged_chunk(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        id = stage.submit()
        end = await stage.end(id)
        assert (end["state"], end["attempts"], stage.text(id)) == ("done", 2, "Hello you")

    cut = CHUNKED + chunk(sse(*start(), *text("Hello")))
    damaged = Answer(cut, then=b"zz\r\n", is_silent=True)
    perform(test, damaged, whole(" you"), stream_idle_timeout_s=60)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_loop_of_redirects_ends_the_request(perform: Perform, status: int) -> None:
    async def test(stage: RelayStage) -> None:
        end: dict[str, Any] = await stage.end(stage.submit())
        assert end["error"]["type"] == "connection_error"
        assert "ANTHROPIC_BASE_URL" in end["error"]["message"]
        assert len(stage.api.heads) <= 4
        assert end["attempts"] == 0

    head = b"HTTP/1.1 %d Moved\r\nlocation: /elsewhere\r\nconnection: close\r\n"
    perform(test, Answer(head % status + b"content-length: 0\r\n\r\n"))


def test_a_stream_that_falls_silent_is_named_so(perform: Perform) -> None:
    async def test(stage: RelayStage) -> None:
        end = await stage.end(stage.submit(on_interrupt="fail"))
        assert end["error"]["message"] == "the stream fell silent"

    perform(test, Answer(OK + b"\r\n" + sse(*start()), is_silent=True))
