"""The calls about a batch that exists: status, cancel, results."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import anthropic
import httpx2
import orjson
from anthropic.types.messages import MessageBatch

from penstock.spool.chunks import CHUNK_BYTES
from tasks.api.batches import BATCHES
from tasks.api.client import UnexpectedResponse
from tasks.batches.claim import ClaimedShard


def job_headers(work: ClaimedShard) -> dict[str, str]:
    """The headers that the producer wants sent along; one of them may name the workspace, in which
    alone the batch can be seen."""
    [headers] = work.read_job("headers")
    return cast(dict[str, str], orjson.loads(headers)) if headers else {}


def retrieve_batch(api: anthropic.Anthropic, work: ClaimedShard) -> MessageBatch:
    """The shard's batch as the API shows it. Raises `UnexpectedResponse`, like `cancel_batch`."""
    return _batch(
        api.messages.batches.retrieve(
            work.shard.batch_id, extra_headers=job_headers(work), timeout=_patience(work)
        )
    )


def cancel_batch(api: anthropic.Anthropic, work: ClaimedShard) -> MessageBatch:
    """Ask the API to cancel the shard's batch."""
    return _batch(
        api.messages.batches.cancel(
            work.shard.batch_id, extra_headers=job_headers(work), timeout=_patience(work)
        )
    )


@contextlib.contextmanager
def downloaded_results(api: anthropic.Anthropic, work: ClaimedShard) -> Iterator[Iterator[bytes]]:
    """The results of the shard's batch, raw, in pieces.

    The SDK's own reader takes 64 bytes at a time and asks the address in ``results_url``, which may
    be another than the one that the worker is to use.
    """
    response = cast(
        httpx2.Response,
        api.get(
            f"{BATCHES}/{work.shard.batch_id}/results",
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=anthropic.Stream[Any],
            options={
                "timeout": _patience(work),
                "headers": {
                    **job_headers(work),
                    "accept": "application/x-jsonl, application/binary",
                    # Unpacking takes longer than a local network does.
                    "accept-encoding": "identity",
                },
            },
        ),
    )
    with contextlib.closing(response):
        yield response.iter_bytes(CHUNK_BYTES) if _packed(response) else response.iter_raw()


def _batch(answer: Any) -> MessageBatch:
    """The SDK gives back whatever a gateway says in place of the API, without a word."""
    if not isinstance(answer, MessageBatch) or not isinstance(
        getattr(answer, "processing_status", None), str
    ):
        raise UnexpectedResponse("the answer is no batch")
    return answer


def _patience(work: ClaimedShard) -> httpx2.Timeout:
    """The client's own timeout is that of an upload."""
    settings = work.settings
    return httpx2.Timeout(settings.stream_idle_timeout_s, connect=settings.connect_timeout_s)


def _packed(response: httpx2.Response) -> bool:
    return response.headers.get("content-encoding", "identity") != "identity"
