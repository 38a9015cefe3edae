"""Claude calls through a queue: live streams and message batches, followed over Redis.

Has what producers and readers need. Importing it imports neither the anthropic SDK nor Celery nor
the Redis driver; each is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.async_client import AsyncClient
    from penstock.batches.view import Batch
    from penstock.client import Client
    from penstock.errors import (
        ClientClosed,
        ConfigurationError,
        InvalidRequest,
        NotEnded,
        NotFound,
        PenstockError,
        RedisUnavailable,
        RequestCanceled,
        RequestFailed,
        TextRewound,
    )
    from penstock.events import Cursor, Event
    from penstock.states import State
    from penstock.streams.async_stream import AsyncMessageStream, AsyncStreamRequest
    from penstock.streams.stream import MessageStream, StreamRequest

_MODULES = {
    "AsyncClient": "async_client",
    "AsyncMessageStream": "streams.async_stream",
    "AsyncStreamRequest": "streams.async_stream",
    "Batch": "batches.view",
    "Client": "client",
    "ClientClosed": "errors",
    "ConfigurationError": "errors",
    "Cursor": "events",
    "Event": "events",
    "InvalidRequest": "errors",
    "MessageStream": "streams.stream",
    "NotEnded": "errors",
    "NotFound": "errors",
    "PenstockError": "errors",
    "RedisUnavailable": "errors",
    "RequestCanceled": "errors",
    "RequestFailed": "errors",
    "State": "states",
    "StreamRequest": "streams.stream",
    "TextRewound": "errors",
}

__all__ = [
    "AsyncClient",
    "AsyncMessageStream",
    "AsyncStreamRequest",
    "Batch",
    "Client",
    "ClientClosed",
    "ConfigurationError",
    "Cursor",
    "Event",
    "InvalidRequest",
    "MessageStream",
    "NotEnded",
    "NotFound",
    "PenstockError",
    "RedisUnavailable",
    "RequestCanceled",
    "RequestFailed",
    "State",
    "StreamRequest",
    "TextRewound",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"penstock.{_MODULES[name]}"), name)
