"""The simulator's batches, created and read over plain HTTP."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from penstock.simulator.control import Control

#: The default one reads all certificates of the machine for every call.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

HEADERS = {"x-api-key": "k", "anthropic-version": "2026-10-21"}


def params(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """The params of a request that succeeds."""
    message = {"role": "user", "content": text}
    return {"model": "claude-haiku-4-5", "max_tokens": 200, "messages": [message], **fields}


def lines(*texts: str) -> dict[str, Any]:
    """The body of a create: a request for each text, named r-0, r-1, …"""
    return {
        "requests": [
            {"custom_id": f"r-{place}", "params": params(text)} for place, text in enumerate(texts)
        ]
    }


def call(method: str, url: str, **options: Any) -> httpx2.Response:
    """Send one request with a key."""
    return httpx2.request(method, url, headers=HEADERS, verify=_NO_CERTIFICATES, **options)


def create(control: Control, *texts: str) -> httpx2.Response:
    """Create a batch, of two requests unless others are given."""
    url = f"{control.base_url}/v1/messages/batches"
    return call("POST", url, json=lines(*(texts or ("a", "b"))))


def ended(control: Control, *texts: str) -> str:
    """Create a batch and end it; its id."""
    batch_id = str(create(control, *texts).json()["id"])
    control.end_batch(batch_id)
    return batch_id


def get(control: Control, path: str = "", **query: Any) -> httpx2.Response:
    """Get the list, a batch or its results."""
    return call("GET", f"{control.base_url}/v1/messages/batches{path}", params=query)


def listed(control: Control, **query: Any) -> list[str]:
    """The ids of a page of the list."""
    return [each["id"] for each in get(control, **query).json()["data"]]


def raw_results(control: Control, batch_id: str) -> bytes:
    """The body of the results, as the server sent it."""
    return get(control, f"/{batch_id}/results").content


def results(control: Control, batch_id: str) -> dict[str, dict[str, Any]]:
    """The result of each request, by custom_id."""
    found = [json.loads(line) for line in raw_results(control, batch_id).split(b"\n") if line]
    return {each["custom_id"]: each["result"] for each in found}


def delete(control: Control, batch_id: str) -> None:
    """Delete a batch that has ended."""
    url = f"{control.base_url}/v1/messages/batches/{batch_id}"
    call("DELETE", url).raise_for_status()


@contextmanager
def download(control: Control, batch_id: str) -> Iterator[httpx2.Response]:
    """Open the results, to read them chunk by chunk."""
    url = f"{control.base_url}/v1/messages/batches/{batch_id}/results"
    with httpx2.stream("GET", url, headers=HEADERS, verify=_NO_CERTIFICATES) as answer:
        yield answer
