"""POST /v1/messages and /v1/messages/count_tokens."""

import time
from typing import Any

from penstock.simulator import limits
from penstock.simulator.errors import invalid
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.directives import Directives, parse
from penstock.simulator.faults.fault import Fault, raise_status
from penstock.simulator.faults.malformed_headers import headers
from penstock.simulator.messages import conversation, validation
from penstock.simulator.messages.answers import compose, count_input
from penstock.simulator.messages.sending import Sending
from penstock.simulator.state import State

MAX_BODY = 32 * 1024 * 1024


async def create(exchange: Exchange, state: State) -> None:
    """Answer a message, streamed or whole, with the faults asked for."""
    version = validation.check_version(exchange.headers)
    body = validation.parse_json(exchange.body)
    fast = body.get("speed") == "fast"
    try:
        if not fast:  # it has limits of its own
            state.bucket.spend(time.monotonic())
    finally:
        exchange.response_headers |= state.bucket.headers()
    directives = _directives(body)
    tier = directives.shape.tier
    exchange.response_headers |= limits.lane_headers(fast=fast, tier=tier)
    fault = state.faults.fire(
        exchange.method,
        exchange.path,
        str(body.get("model")),
        prompt=conversation.first_user_text(body),
        directives=directives.faults,
    )
    state.count_fault(fault)
    if fault and fault.headers:
        exchange.response_headers |= headers(fault.headers)
    if fault and fault.drop_headers:
        await exchange.drop_headers(fault.drop_headers)
        return
    raise_status(fault)
    validation.check_message(body, version, betas=exchange.headers.get("anthropic-beta", ""))
    answer = compose(
        body, directives.shape, deltas=state.options.deltas, mark=bool(state.options.mark)
    )
    state.threads.begin(body, time.monotonic())
    sending = Sending(exchange, state, body, answer, directives.shape, fault or Fault())
    try:
        stream = body.get("stream")
        if not await exchange.run_while_connected(sending.stream() if stream else sending.whole()):
            state.stats.client_disconnects += 1
    finally:
        sending.end_thread(answered=False)


async def count_tokens(exchange: Exchange, state: State) -> None:
    """Send the number of input tokens."""
    version = validation.check_version(exchange.headers)
    body = validation.parse_json(exchange.body)
    betas = exchange.headers.get("anthropic-beta", "")
    validation.check_message(body, version, counting=True, betas=betas)
    await exchange.reply({"input_tokens": count_input(body)})


def _directives(body: dict[str, Any]) -> Directives:
    try:
        return parse(conversation.user_texts(body))
    except ValueError as error:
        raise invalid(str(error)) from error
