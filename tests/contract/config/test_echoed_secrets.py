"""A server that echoes what it was sent: no problem of a call has a credential in it."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from functools import partial

import anthropic
import pytest

from config.settings import WorkerSettings
from tasks.api.client import async_client, problem_of, sync_client
from tests.contract.config.raw_server import raw_server, response
from tests.contract.config.test_http_clients import clean_environment

__all__ = ["clean_environment"]

KEY = "sk-ant-planted-key"
PASSWORD = "planted@pass/word"
LOGIN = b64encode(f"me:{PASSWORD}".encode()).decode()
COOKIE = "session=planted-cookie"

ANSWERS = {
    "an error of the API": response(
        401, body=f'{{"type": "error", "error": {{"type": "{KEY}", "message": "no {KEY}"}}}}'
    ),
    "a request id": response(400, f"request-id: {KEY}", body="{}"),
    "a page": response(502, body=f"<p>x-api-key: {KEY}</p> authorization: Basic {LOGIN}"),
    "a key at the cut": response(502, body="x" * 90 + KEY),
    "a status line": f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
    "a protocol": f"{KEY}\r\n\r\n".encode(),
    "a header without a name": f"HTTP/1.1 200 OK\r\n: {KEY}\r\n\r\n".encode(),
    "a cookie": f"HTTP/1.1 200 OK\r\nset-cookie {COOKIE}\r\n\r\n".encode(),
    "a header with a control character": (
        f"HTTP/1.1 200 OK\r\nset-cookie: {COOKIE}\x00{KEY}\r\n\r\n".encode()
    ),
    "a length": f"HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n".encode(),
    "a redirect": response(307, f"location: https://me:{KEY}@h/{KEY}"),
    "a redirect that is no URL": response(307, f"location: http://{KEY}:{KEY}"),
    "a redirect with another scheme": response(307, f"location: {KEY}://h"),
}


def echo(answer: bytes, _head: str) -> bytes:
    return answer


def settings(address: str) -> WorkerSettings:
    login = "me:planted%40pass%2Fword@"
    return WorkerSettings.load(
        anthropic_api_key=KEY, anthropic_base_url=address.replace("//", f"//{login}")
    )


def error_of_batch_client(address: str) -> Exception:
    with sync_client(settings(address)) as client:
        with pytest.raises(anthropic.AnthropicError) as raised:
            client.messages.batches.list()
        return raised.value


def error_of_stream_client(address: str) -> Exception:
    async def call() -> Exception:
        async with async_client(settings(address)) as client:
            with pytest.raises(anthropic.AnthropicError) as raised:
                await client.messages.batches.list()
            return raised.value

    return asyncio.run(call())


@pytest.mark.parametrize("of", [error_of_batch_client, error_of_stream_client])
def test_no_problem_has_what_a_server_echoes(of: Callable[[str], Exception]) -> None:
    for what, answer in ANSWERS.items():
        with raw_server() as server:
            server.answer = partial(echo, answer)
            error = of(server.address)
        problem = problem_of(error)
        texts = [str(problem), repr(problem), str(problem.as_error())]
        for text in texts:
            for secret in (KEY, PASSWORD, LOGIN, COOKIE, "planted"):
                assert secret not in text, (what, text)
        assert problem.message, what
