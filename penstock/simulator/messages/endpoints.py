"""POST /v1/messages and /v1/messages/count_tokens."""

import asyncio
import time
from typing import Any

import orjson

from penstock.simulator.errors import ApiError, invalid
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.directives import Directives, Shape, parse
from penstock.simulator.faults.fault import DEFAULT_STALL_S, Fault, raise_status
from penstock.simulator.messages import conversation, sse, validation
from penstock.simulator.messages.answers import Answer, compose, count_input
from penstock.simulator.messages.params_hash import params_hash
from penstock.simulator.messages.player import Player
from penstock.simulator.messages.script import build_script
from penstock.simulator.state import State

MAX_BODY = 32 * 1024 * 1024


async def create(exchange: Exchange, state: State) -> None:
    """Answer a message, streamed or whole, with the faults asked for."""
    version = validation.check_version(exchange.headers)
    try:
        state.bucket.spend(time.monotonic())
    finally:
        exchange.response_headers |= state.bucket.headers()
    body = validation.parse_json(exchange.body)
    directives = _directives(body)
    fault = state.faults.fire(
        exchange.method,
        exchange.path,
        str(body.get("model")),
        prompt=conversation.first_user_text(body),
        directives=directives.faults,
    )
    state.count_fault(fault)
    raise_status(fault)
    validation.check_message(body, version)
    answer = compose(
        body, directives.shape, deltas=state.options.deltas, mark=bool(state.options.mark)
    )
    work = _send_stream if body.get("stream") else _send_message
    if not await exchange.run_while_connected(
        work(exchange, state, answer, directives.shape, fault)
    ):
        state.stats.client_disconnects += 1


async def count_tokens(exchange: Exchange, state: State) -> None:
    """Send the number of input tokens."""
    version = validation.check_version(exchange.headers)
    body = validation.parse_json(exchange.body)
    validation.check_message(body, version, counting=True)
    await exchange.reply({"input_tokens": count_input(body)})


def _directives(body: dict[str, Any]) -> Directives:
    try:
        return parse(conversation.user_texts(body))
    except ValueError as error:
        raise invalid(str(error)) from error


async def _delay_first_byte(state: State, fault: Fault | None) -> None:
    seconds = state.options.latency_seconds + ((fault and fault.slow_first) or 0.0)
    if seconds:
        await asyncio.sleep(seconds)


async def _send_stream(
    exchange: Exchange, state: State, answer: Answer, shape: Shape, fault: Fault | None
) -> None:
    options = state.options
    script = build_script(
        answer,
        state.new_id("msg"),
        fault=fault,
        ping_every=options.ping_every,
        request_id=exchange.request_id,
    )
    state.stats.stream_opened()
    try:
        await _delay_first_byte(state, fault)
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        await exchange.start(200, headers)
        player = Player(
            exchange,
            state.stats,
            rate=options.rate if shape.rate is None else shape.rate,
            chunk=(fault and fault.chunk) or 0,
            crlf=bool(fault and fault.crlf),
        )
        await player.play(script)
        if script.disconnects:
            await exchange.disconnect(reset=bool(fault and fault.reset))
        else:
            # Counted first: a client that has seen the end may read the counters immediately.
            state.stats.messages_finished += script.complete
            if script.complete:
                _count_payment(exchange, state)
            await exchange.end()
    finally:
        state.stats.stream_closed()


async def _send_message(
    exchange: Exchange, state: State, answer: Answer, shape: Shape, fault: Fault | None
) -> None:
    await _delay_first_byte(state, fault)
    data = orjson.dumps(sse.message(answer, state.new_id("msg")))
    if fault is None:
        await _send_body(exchange, state, data)
        return
    if fault.stall_after is not None:
        await asyncio.sleep(DEFAULT_STALL_S if fault.stall is None else fault.stall)
    if fault.error_after is not None:
        raise ApiError(fault.error_type or "overloaded_error", fault.message or "")
    if {"disconnect_after", "eof_after", "drop_mid_char"} & set(fault.effects):
        # Without events there is only one place to cut: the middle of the body.
        await exchange.start(200, _json_headers(data))
        await exchange.write(data[: len(data) // 2])
        await exchange.disconnect(reset=bool(fault.reset))
        return
    await _send_body(exchange, state, data, chunk=fault.chunk or 0)


async def _send_body(exchange: Exchange, state: State, data: bytes, *, chunk: int = 0) -> None:
    await exchange.start(200, _json_headers(data))
    # Counted first: a client that has seen the end may read the counters immediately.
    state.stats.messages_answered += 1
    _count_payment(exchange, state)
    for start in range(0, len(data) if chunk else 0, chunk or 1):
        await exchange.write(data[start : start + chunk])
        await asyncio.sleep(0)
    await exchange.end(b"" if chunk else data)


def _count_payment(exchange: Exchange, state: State) -> None:
    # A request is the same whether it is streamed, whole, or in a batch.
    params = orjson.loads(exchange.body)
    params.pop("stream", None)
    state.live_paid[params_hash(params)] += 1


def _json_headers(data: bytes) -> dict[str, str]:
    return {"content-type": "application/json", "content-length": str(len(data))}
