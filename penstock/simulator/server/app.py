"""The ASGI application: routes, the API key, and errors as responses."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from penstock.simulator.batches import creation
from penstock.simulator.batches import endpoints as batches
from penstock.simulator.batches.state import BatchState
from penstock.simulator.batches.store import now_utc
from penstock.simulator.errors import ApiError, not_found
from penstock.simulator.exchange import ClientDisconnected, Exchange, Receive, Send
from penstock.simulator.faults.fault import Fault, raise_status
from penstock.simulator.faults.malformed_headers import headers
from penstock.simulator.faults.malformed_responses import FixedResponse
from penstock.simulator.messages import endpoints as messages
from penstock.simulator.messages import validation
from penstock.simulator.options import Options
from penstock.simulator.server import admin

_MODELS = (
    ("claude-opus-5-5", "Claude Opus 5.5", "2026-10-14T00:00:00Z"),
    ("claude-sonnet-5-5", "Claude Sonnet 5.5", "2026-10-14T00:00:00Z"),
    ("claude-haiku-5-5", "Claude Haiku 5.5", "2026-10-14T00:00:00Z"),
    ("claude-opus-4-5", "Claude Opus 4.5", "2025-11-24T00:00:00Z"),
    ("claude-haiku-4-5", "Claude Haiku 4.5", "2025-10-15T00:00:00Z"),
)
_ROUTE = re.compile(
    r"/v1/(?:"
    r"(?P<messages>messages)"
    r"|messages/(?P<count_tokens>count_tokens)"
    r"|messages/(?P<batches>batches)"
    r"|messages/batches/(?P<batch>[^/]+)(?:/(?P<action>cancel|results))?"
    r"|(?P<models>models)(?:/(?P<model>[^/]+))?"
    r")\Z"
)
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def create_app(options: Options | None = None) -> ASGIApp:
    """A simulator as an ASGI application.

    Faults that cut a connection need the HTTP protocol of `uvicorn_server`.
    """
    state = BatchState(options or Options())

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"not an HTTP request: {scope['type']}")
        exchange = Exchange(scope, receive, send, state.new_id("req"))
        try:
            await _dispatch(exchange, state)
        except ApiError as error:
            await exchange.reply_error(error)
        except FixedResponse as response:
            await exchange.start(response.status, response.headers)
            await exchange.end(response.body)
        except ClientDisconnected:
            pass

    return app


async def _dispatch(exchange: Exchange, state: BatchState) -> None:
    if exchange.path.startswith(admin.PREFIX):
        await admin.serve(exchange, state)
        return
    found = _ROUTE.match(exchange.path)
    parts = {key: value for key, value in found.groupdict().items() if value} if found else {}
    is_batch = exchange.method == "POST" and "batches" in parts
    try:
        await exchange.read(creation.MAX_BODY if is_batch else messages.MAX_BODY)
    finally:
        state.log_request(exchange, f"{exchange.method} {_endpoint(exchange.path, parts)}")
    validation.check_key(exchange.headers)
    if exchange.method == "POST" and "messages" in parts:
        await messages.create(exchange, state)
    else:
        await _dispatch_by_path(exchange, state, parts)


async def _dispatch_by_path(exchange: Exchange, state: BatchState, parts: dict[str, str]) -> None:
    """Serve everything but messages, whose faults depend on their text."""
    batch = state.batches.get(parts.get("batch", ""), now_utc())
    ended = batch is not None and batch.ended_at is not None
    fault = state.faults.fire(exchange.method, exchange.path, ended=ended)
    state.count_fault(fault)
    if fault and fault.slow_first:
        await asyncio.sleep(fault.slow_first)
    if fault and fault.headers:
        exchange.response_headers |= headers(fault.headers)
    if "batches" in parts and exchange.method == "POST":
        await batches.create(exchange, state, fault)
        return
    if fault and fault.drop_headers:
        await exchange.drop_headers(fault.drop_headers)
        return
    raise_status(fault)
    if parts.get("action") == "results" and exchange.method == "GET":
        await batches.results(exchange, state, parts["batch"], fault)
    else:
        await _call_endpoint(exchange, state, parts, fault)


async def _call_endpoint(
    exchange: Exchange, state: BatchState, parts: dict[str, str], fault: Fault | None
) -> None:
    batch_id = parts.get("batch", "")
    match exchange.method, *sorted(parts.keys() - {"model"}):
        case "POST", "count_tokens":
            await messages.count_tokens(exchange, state)
        case "GET", "batches":
            await batches.list_all(exchange, state, fault)
        case "GET", "batch":
            await batches.retrieve(exchange, state, batch_id, fault)
        case "DELETE", "batch":
            await batches.delete(exchange, state, batch_id)
        case "POST", "action", "batch" if parts["action"] == "cancel":
            await batches.cancel(exchange, state, batch_id)
        case "GET", "models":
            await _models(exchange, parts.get("model"))
        case _ if parts:
            raise ApiError("invalid_request_error", "Method Not Allowed", status=405)
        case _:
            raise not_found(f"Not found: {exchange.path}")


async def _models(exchange: Exchange, model: str | None) -> None:
    data = [
        {"type": "model", "id": name, "display_name": shown, "created_at": created}
        for name, shown, created in _MODELS
        if model in (None, name)
    ]
    if model and not data:
        raise not_found(f"model: {model}")
    page = {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}
    await exchange.reply(data[0] if model else page)


def _endpoint(path: str, parts: dict[str, str]) -> str:
    """A path without the ids in it, for the counters."""
    for name in ("batch", "model"):
        if name in parts:
            path = path.replace(parts[name], "{id}")
    return path if parts else "(unknown)"
